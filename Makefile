# make build       libtorch (fetched once), libditshim.so and libditcuda.so in build/lib, and bin/ditrun
# make demo        trains a VAE and a DiT on Fashion-MNIST and samples its ten classes
# make demo-color  the same in colour: emoji, at 64 pixels
# make test        everything a change must pass; make check is the part that runs no tests
# make emulator    compiles the CUDA kernels for the tests that run them on the CPU; make test does
# make kernels     compiles the CUDA kernels with nvcc, which is fetched where there is none; make test does in CI
# make soak        the tests at full count, for hours, those that gpu-check packs on the CPU, and make fuzz
# make fuzz        every fuzz target for FUZZ_SECONDS
# make bench       the benchmarks
# make vuln        looks for known vulnerabilities of Go and of the modules that this program reaches
# make gpu-check   packs the tests for a machine that has only libtorch and a GPU; runs them if this machine has one
# make install     installs to PREFIX=/usr/local; make uninstall removes that
.PHONY: build demo demo-color test check fmt emulator shim-asan kernels soak fuzz bench vuln gpu-check install
.PHONY: uninstall clean
MAKEFLAGS += --no-print-directory
PREFIX ?= /usr/local
SOAK_TIMEOUT ?= 24h
FUZZ_SECONDS ?= 60

build:
	@third_party/require.sh go cmake c++
	third_party/codecs.sh
	cmake -S . -B build
	cmake --build build
	go build -o bin/ditrun ./cmd/ditrun

demo: build
	@bench/demo/demo.sh fashion-mnist

demo-color: build
	@bench/demo/demo.sh emoji

# Packages without libtorch run under the race detector, but not those that start no goroutine: there it finds nothing,
# and takes ten times as long. (Where others call them from several goroutines it sees them in the tests of those.) The
# check of pointers that comes with it stays on.
module = github.com/ditrun/ditrun
with_torch = $(shell go list -f '{{.ImportPath}} {{.Deps}}' ./... | awk '/ditrun\/torch[] ]/ { print $$1 }')
without_torch = $(filter-out $(with_torch),$(shell go list ./...))
sequential = $(addprefix $(module)/,data/picture data/table diffusion/metrics diffusion/scaling diffusion/schedule $\
	dit/text/bpe torch/checkpoint torch/philox)
# Of the files of weights a signed one is read while a goroutine takes its sum.
race_files = ^Test(EveryReaderCompares|DamageIsTheCause|DamagedState|Sums)$$

# What is quick of the packages that start goroutines beside libtorch runs under it too; libtorch is not instrumented.
# It does not run again without.
slow_torch = ^Test(StepsDoNotLeak|ActivationsReuseTheirPages|FillInParts)$$
race_ranks = ^Test(Alone|Store|NoGoroutineStays|RankThatGaveUp|InterruptedWhileWaiting|TellsAgain|NCCLCalls|$\
	NCCLRankThatGaveUp|SaveLoadContinueIsBitEqual|OptimizerErrorsAndLifetime|RanksMustAgree|GroupErrors|SnapshotStays)$$
ranks = $(addprefix $(module)/torch/,dist optim)
# Of the training loop and the encoder of latents those of savers, readers and ranks.
race_loops = Cancel|EveryError|ResumeEquals|Save|Retention|Compares|BadData|StopOnOne|EqualsDisk|Stopped|BadPictures|$\
	DirectEncoding
loops = $(addprefix $(module)/,diffusion/training vae/encode)

# Operations and models, and all of the above, use all cores, so that packages run one after another: the OpenMP threads
# of two processes would compete. The others have models so small that a second thread does nothing but wait, at twice
# the processor time: they run on one, side by side.
on_all_cores = $(addprefix $(module)/,torch/nn dit vae)

test: build check emulator
	.ci/gotest race -race $(filter-out $(sequential),$(without_torch))
	.ci/gotest race-files -race -run '$(race_files)' $(module)/torch/checkpoint
	.ci/gotest sequential -gcflags=-d=checkptr $(sequential)
	.ci/gotest race-torch -race -skip '$(slow_torch)' $(module)/torch
	.ci/gotest torch -run '$(slow_torch)' $(module)/torch
	.ci/gotest race-ranks -race -p 1 -run '$(race_ranks)' $(ranks)
	.ci/gotest race-loops -race -p 1 -run '$(race_loops)' $(loops)
	.ci/gotest models -p 1 $(on_all_cores)
	OMP_NUM_THREADS=1 .ci/gotest ranks -skip '$(race_ranks)' $(ranks)
	OMP_NUM_THREADS=1 .ci/gotest loops -skip '$(race_loops)' $(loops)
	OMP_NUM_THREADS=1 .ci/gotest commands $(filter-out $(module)/torch $(on_all_cores) $(ranks) $(loops),$(with_torch))
	@$(MAKE) shim-asan
	@.ci/kernels

check:
	@.ci/check

fmt:
	gofmt -w $$(go list -f '{{.Dir}}' ./...)
	third_party/clang-format.sh -i $$(find torch data bench -name 'gen_*' -prune \
		-o -name '*.[ch]' -print -o -name '*.c[pu]*' -print)

# The CUDA kernels for the CPU, which tests of operations and models compute with in place of a GPU's.
emulator:
	cmake -S . -B build
	cmake --build build --target ditemulator

# libtorch itself is not instrumented: containers that cross its border look damaged to the sanitizer.
shim-asan:
	cmake -S . -B build/asan -DDITRUN_ASAN=ON
	cmake --build build/asan
	ASAN_OPTIONS=detect_container_overflow=0 build/asan/shim_asan_test

kernels:
	@.ci/kernels fetch

soak: build
	DITRUN_SOAK=1 go test -count=1 -p 1 -timeout $(SOAK_TIMEOUT) -v ./...
	bench/gpu/check.sh all
	@$(MAKE) fuzz

fuzz: build
	.ci/fuzz $(FUZZ_SECONDS)

bench: build
	go test -p 1 -run '^$$' -bench . -benchmem ./...

vuln:
	go run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...

gpu-check: build
	@bench/gpu/pack.sh

install:
	@third_party/install.sh '$(PREFIX)'

uninstall:
	@third_party/install.sh '$(PREFIX)' remove

clean:
	rm -rf build bin
