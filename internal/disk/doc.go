// Package disk is how this program touches a file system: files and folders that appear whole or not
// at all, locks, checksums, lines of text files, and the errors worth another try. It knows nothing of
// what the files hold.
//
// What is being written has a temporary name beside the name that it will get, ".NAME.PID-RANDOM.tmp",
// and is locked by the process that writes it. [Sweep] removes the temporaries of processes that were
// killed, which it knows by their lock being free.
package disk
