package runs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strconv"
	"time"

	"github.com/ditrun/ditrun/internal/names"
)

// Number is a float64 that may be no number: in JSON, which has no NaN, such
// a value is null.
type Number float64

// MarshalJSON writes the shortest digits that read back the same, or null.
func (n Number) MarshalJSON() ([]byte, error) {
	if f := float64(n); !math.IsNaN(f) && !math.IsInf(f, 0) {
		return json.Marshal(f)
	}
	return []byte("null"), nil
}

// UnmarshalJSON reads a number, or null as NaN.
func (n *Number) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*n = Number(math.NaN())
		return nil
	}
	f, err := strconv.ParseFloat(string(b), 64)
	*n = Number(f)
	return err
}

// Step is one log step: a line of log.jsonl. Loss, MSE, VB and GradNorm are
// means over the steps since the last log step. Fields marked omitempty may be
// left zero when they are not known.
type Step struct {
	Step  int    `json:"step"`
	Epoch int    `json:"epoch"`
	Loss  Number `json:"loss"`
	MSE   Number `json:"mse,omitempty"`
	VB    Number `json:"vb,omitempty"`
	// of equal stretches of timesteps, from 0; null where there was none
	Bins            []Number `json:"mse_by_timestep,omitempty"`
	GradNorm        Number   `json:"grad_norm,omitempty"`
	UpdateNorm      Number   `json:"update_norm,omitempty"` // of the change of the weights in the last step
	Skipped         int      `json:"skipped,omitempty"`     // steps that were not applied since the last log step
	LR              Number   `json:"lr"`
	StepsPerSecond  Number   `json:"steps_per_second"`
	ImagesPerSecond Number   `json:"images_per_second"`
	TFLOPS          Number   `json:"tflops,omitempty"` // achieved, in 10^12 per second
	MFU             Number   `json:"mfu,omitempty"`    // share of the device's peak
	DataWaitShare   Number   `json:"data_wait_share"`  // share of the time spent waiting for data, 0 to 1
	SavingShare     Number   `json:"saving_share"`     // share of the time that checkpoints held training up
	LoggingShare    Number   `json:"logging_share"`    // share of the time that logs and plots did
	// the most that tensors on the GPU took at once so far; without a GPU what the process takes of the host's memory
	MemoryBytes     int64     `json:"memory_bytes,omitempty"`
	HostMemoryBytes int64     `json:"host_memory_bytes,omitempty"` // beside a GPU: what the process takes of the host's
	Seconds         Number    `json:"seconds"`                     // of training, with what a resumed run did before
	Time            time.Time `json:"time"`                        // filled in by Log when zero
}

func (s Step) json() ([]byte, error) {
	// Milliseconds are enough for a log line.
	s.Time = s.Time.Truncate(time.Millisecond)
	line, err := json.Marshal(s)
	return append(line, '\n'), err
}

// ReadLog reads the records of a log.jsonl. A last line without an end, which
// a killed process leaves, is passed over.
func ReadLog(path string) ([]Step, error) {
	steps, damaged, err := readLog(path)
	if err == nil && len(damaged) > 0 {
		err = fmt.Errorf("read %s: %s cannot be read, the first is %.60q", path, names.Plural(len(damaged), "line"),
			damaged[0])
	}
	return steps, err
}

// readLog is ReadLog that returns damaged lines beside the good ones.
func readLog(path string) (steps []Step, damaged [][]byte, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	for line := range bytes.Lines(data) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break
		}
		var s Step
		if err := json.Unmarshal(line, &s); err != nil || s.Step < 1 {
			damaged = append(damaged, line)
			continue
		}
		steps = append(steps, s)
	}
	return steps, damaged, nil
}
