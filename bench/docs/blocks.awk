# Splits a Markdown page into its command blocks: each goes to DIR/LINE.sh, and its line number and the reason not to
# run it, if any, are printed. What the page's commands need to begin with is printed as "with NAME...".
#
# Blocks are fenced and say what they hold: ```sh is run, ```go is compiled by a test, ```text and others are neither.
function bad(text) { printf "%s:%d: %s\n", FILENAME, FNR, text > "/dev/stderr"; failed = 1; exit 1 }

/^```/ && !inside {
	inside = 1
	kind = substr($0, 4)
	if (kind !~ /^(sh|go|text|yaml|json)$/) bad("a block of kind \"" kind "\", want sh, go, text, yaml or json")
	if (kind == "sh") {
		file = DIR "/" FNR ".sh"
		printf "" > file
		print FNR, reason
	} else if (reason != "") bad("only sh blocks are run, or not")
	reason = ""
	next
}
/^```$/ { inside = 0; if (kind == "sh") close(file); next }
inside { if (kind == "sh") print > file; next }

/^<!-- not run: .* -->$/ {
	reason = substr($0, 15, length($0) - 18)
	if (reason !~ /^(minutes|hours|network|GPU|another program|placeholder)/) bad("unknown reason \"" reason "\"")
	next
}
/^<!-- run with .* -->$/ { print "with", substr($0, 15, length($0) - 18); next }
/^<!-- go: / { next } # what the compiler needs to know
/^<!-- / { bad("unknown remark: " $0) }
reason != "" { bad("a remark that stands before no block") }
/^    / && last == "" { bad("an indented block: fence it, and say what it holds") }
{ last = $0 }
END { if (!failed && inside) bad("a block that does not end") }
