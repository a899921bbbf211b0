package format

import (
	"testing"
	"time"
)

func TestCount(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0", 7: "7", 999: "999", 1000: "1,000", 60000: "60,000", 1281167: "1,281,167",
		-1000: "-1,000", -999: "-999", 675129632: "675,129,632",
	} {
		if got := Count(n); got != want {
			t.Errorf("Count(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.00 kB", 1536000: "1.54 MB", 999499: "999 kB",
		999999: "1.00 MB", 550e6: "550 MB", 25.2e9: "25.2 GB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestRate(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0.00", 0.84: "0.84", 53.84: "53.8", 1234.4: "1,234", 99.97: "100", 0.0012: "0.0012",
	} {
		if got := Rate(v); got != want {
			t.Errorf("Rate(%g) = %q, want %q", v, got, want)
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                                     "0.0s",
		400 * time.Millisecond:                "0.4s",
		9970 * time.Millisecond:               "10s",
		39 * time.Second:                      "39s",
		59600 * time.Millisecond:              "1m00s",
		125 * time.Second:                     "2m05s",
		3*time.Hour + 20*time.Minute + 31*1e9: "3h21m",
		3599600 * time.Millisecond:            "1h00m",
		-2 * time.Second:                      "-2.0s",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%d) = %q, want %q", d, got, want)
		}
	}
}

func TestEstimate(t *testing.T) {
	for d, want := range map[time.Duration]string{
		400 * time.Millisecond:         "0s",
		9400 * time.Millisecond:        "9s",
		9600 * time.Millisecond:        "10s",
		125 * time.Second:              "2m05s",
		47 * time.Hour:                 "47h00m",
		127*time.Hour + 40*time.Minute: "5d08h",
		364 * 24 * time.Hour:           "364d00h",
	} {
		if got := Estimate(d); got != want {
			t.Errorf("Estimate(%v) = %q, want %q", d, got, want)
		}
	}
}
