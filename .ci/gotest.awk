# Shortens the output of `go test -v`: a line for each package, the output of failing tests, and the skipped tests with
# their reasons.
function flush() { printf "%s", held; held = "" }
function skips(    i) {
	for (i = 1; i <= reasons; i++) {
		printf "  skipped %s%s: %s\n", first[i], (count[i] > 1 ? " and " (count[i] - 1) " more" : ""), reason[i]
		delete number[reason[i]]
		count[i] = 0
	}
	reasons = 0
}
/^=== (RUN|CONT|NAME|PAUSE)/ { now = $3; if ($2 == "RUN") inside = 1 }
/^ *--- SKIP: / {
	why = message[$3]
	if (!(why in number)) { number[why] = ++reasons; reason[reasons] = why; first[reasons] = $3 }
	count[number[why]]++
	next
}
/^ *--- FAIL/ { held = held $0 "\n"; flush(); next }
/^--- PASS/ { held = ""; next }
/^ +--- PASS/ { next }
/^(ok|FAIL|PASS|\?)/ {
	if ($1 == "FAIL") flush()
	held = ""
	inside = 0
	if (NF > 1) { print; skips() }
	next
}
/^ *[a-z0-9_]+\.go:[0-9]+: / { line = $0; sub(/^ *[^ ]* /, "", line); message[now] = line }
{ if (inside) held = held $0 "\n"; else print }
END { flush(); skips() }
