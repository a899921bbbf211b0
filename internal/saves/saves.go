// Package saves finds weights on disk and says whether they are as they were written: it knows the checkpoints of a
// training run, and checksums beside files.
//
// A run keeps its checkpoints in one folder, such as RUN/checkpoints:
//
//	0000500/  0001000/        one folder a checkpoint, named by its step
//	latest -> 0001000         a link to the last that was written
//
// A checkpoint holds the weights ([ModelName]), their averages ([EMAName]), the optimizer's state in one file
// a process ([OptimizerName]), and [StateName], written last, with the checksums of the others and its own.
// [ReadFolder] reads that; [Latest] finds the checkpoint that a reader wants, [Newest] the one to continue from.
//
// A model that is no checkpoint of a run may have its checksums in [SumsName]. [SignatureOf] finds what either
// file says of another.
package saves
