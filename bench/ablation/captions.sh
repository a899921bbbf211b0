#!/usr/bin/env bash
# The captions of the study, made from the class names of Fashion-MNIST.
#
#   captions.sh train FOLDER   lines of file,caption for the training pictures in FOLDER, several for each picture
#   captions.sh prompts        the prompts of the study: number of the class, kind and prompt, separated by tabs
#
# Kinds of prompts: "seen" is a caption used in training; "new" is the same word in a wording that training does not
# use; "synonym" is a word that no caption has.
set -euo pipefail

# The names do not go into templates as they are: articles differ, one is a pair, one has a slash.
one=("a t-shirt" "a pair of trousers" "a pullover" "a dress" "a coat" "a sandal" "a shirt" "a sneaker" "a bag"
	"an ankle boot")
many=("t-shirts" "trousers" "pullovers" "dresses" "coats" "sandals" "shirts" "sneakers" "bags" "ankle boots")
synonyms=("a tee" "jeans" "a jumper" "a gown" "a winter jacket" "flip-flops" "a blouse" "running shoes" "a purse"
	"high winter footwear")

seen=("a photo of ONE" "MANY, studio picture")
training=("${seen[@]}" "ONE" "MANY" "a small grey picture of ONE" "MANY on a black background" "MANY for sale"
	"product photo: ONE, seen from the side that it is usually shown from")
new=("an old photograph that shows ONE" "please draw some MANY for me")

fill() { # fill CLASS WORDING
	local text=${2/ONE/${one[$1]}}
	printf '%s\n' "${text/MANY/${many[$1]}}"
}

case ${1:-} in
train)
	for class in "${!one[@]}"; do
		for wording in "${training[@]}"; do printf '%d\t%s\n' "$class" "$(fill "$class" "$wording")"; done
	done |
		# Pictures of IDX files are called by their position; the labels begin after eight bytes.
		awk -F '\t' 'FNR == NR { text[$1, n[$1]++] = $2; next }
			FNR == 1 { print "file,caption" }
			{ class = $1 + 0; for (i = 0; i < n[class]; i++) printf "%08d,\"%s\"\n", FNR - 1, text[class, i] }' \
			- <(gzip -dc "$2/train-labels-idx1-ubyte.gz" | tail -c +9 | od -An -v -w1 -tu1)
	;;
prompts)
	for class in "${!one[@]}"; do
		for wording in "${seen[@]}"; do printf '%d\tseen\t%s\n' "$class" "$(fill "$class" "$wording")"; done
		for wording in "${new[@]}"; do printf '%d\tnew\t%s\n' "$class" "$(fill "$class" "$wording")"; done
		printf '%d\tsynonym\t%s\n' "$class" "${synonyms[class]}"
	done
	;;
*)
	sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
	exit 2
	;;
esac
