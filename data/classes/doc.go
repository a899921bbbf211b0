// Package classes is about what classes are called. A data set numbers its classes from 0 in the order of their names;
// a model knows the numbers alone. Here are the names of ImageNet-1k and the words behind its WordNet ids, what is
// remarkable about the names and numbers of a data set, and the search for the classes that a user means:
//
//	labels, found, err := classes.Find(10, names, []string{"3", "boot", "label:2"})
//	// labels 3, 9, 2; found has "boot is 9, Ankle boot"
//	classes.Words("n02099601") // golden retriever
package classes
