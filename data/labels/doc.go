// Package labels reads which class a picture is of, as files say it: a number or a name, in a text, in a field of JSON,
// or in a file with a line for each picture.
//
//	label, err := labels.Parse("golden retriever")            // Label{Class: "golden retriever"}
//	label, found, err := labels.FromJSON([]byte(`{"label": 3}`)) // Label{Number: 3}
//
//	file, err := labels.Read("labels.csv")                    // cat/1.jpg,cat
//	classes, numbers, notes, err := file.Assign(pictures)
//
// Nothing is guessed: a label that is missing, negative or of no use is an error that says where.
package labels
