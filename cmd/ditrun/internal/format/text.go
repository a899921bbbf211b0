package format

import "github.com/ditrun/ditrun/internal/names"

// Text makes text from files safe to print: control characters, the escape sequences of terminals, marks that turn the
// direction of writing and all else that does not show become what Go would write for it, such as \x1b or \u202e. Line
// ends and tabs stay.
func Text(s string) string { return names.Visible(s, "\n\t") }

// Line is Text for what must stay one line: line ends show as \n.
func Line(s string) string { return names.Visible(s, "\t") }
