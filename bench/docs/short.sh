#!/usr/bin/env bash
# Stands in for ditrun where the commands of the pages are run: calls it ($DITRUN) with the given arguments and further
# flags that keep the work to seconds, since the last value of a flag counts. Files and folders get the names that the
# page gives them. There is no home folder and no terminal, and the cache is $DOCS_CACHE.
set -euo pipefail

# value FLAG: the value of a flag as it was given, or nothing.
value() {
	local previous=
	for word in "${given[@]}"; do
		[ "$previous" != "$1" ] || printf '%s\n' "$word"
		case $word in "$1="*) printf '%s\n' "${word#*=}" ;; esac
		previous=$word
	done | tail -n 1
}

given=("$@") little=() command=
for word in "$@"; do
	case $word in
	train | train-vae | sample | bench | help)
		command=$word
		break
		;;
	esac
done
case " $* " in *" --help "*) command=help ;; esac

case $command in
train)
	little=(--global-batch-size 8 --gradient-accumulation-steps 1 --log-every 1 --warmup-steps 0)
	resume=$(value --resume) model=$(value --model)
	model=${model:-DiT-XL/2} size=32x2x2
	[ -z "$(value --init-from)$DOCS_RELEASED" ] || size=384x1x6 # a width of the paper
	case $resume in
	'' | none | auto)
		little+=(--model "DiT-$size/${model##*/}" --max-steps 2)
		if [ -z "$(value --run-dir)" ]; then
			results=$(value --results-dir)
			results=${results:-results}
			shopt -s nullglob
			runs=("$results"/*/)
			little+=(--run-dir "$results/$(printf '%03d' "${#runs[@]}")-${model//\//-}")
		fi
		;;
	*) little+=(--max-steps 4) ;;
	esac
	if [ "$size" != 32x2x2 ]; then
		little+=(--sample-every 0) # a preview of this size takes a minute
	elif [ -n "$(value --sample-every)" ]; then
		little+=(--sample-every 2)
	fi
	;;
train-vae)
	factor=$(value --downsample) widths=8
	for ((factor = ${factor:-4}; factor > 1; factor /= 2)); do widths+=,8; done
	little=(--max-steps 2 --batch-size 2 --block-out-channels "$widths")
	;;
bench) little=(--model DiT-32x2x2/2 --image-size 16 --batch-size 2 --rounds 1 --steps 1) ;;
sample)
	little=(--num-sampling-steps 2)
	samples=$(value --num-samples)
	if [ "${samples:-0}" -gt 8 ]; then little+=(--num-samples 8); fi
	;;
esac
exec env -u HOME XDG_CACHE_HOME="$DOCS_CACHE" TERM=dumb COLUMNS=80 OMP_NUM_THREADS=1 "$DITRUN" "$@" "${little[@]}"
