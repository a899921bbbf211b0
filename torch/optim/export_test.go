package optim

// NewAdamWIn is NewAdamW in a group that package dist does not open.
var NewAdamWIn = newAdamW
