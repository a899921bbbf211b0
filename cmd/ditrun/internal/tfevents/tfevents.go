// Package tfevents writes event files that TensorBoard reads. An event file is
// a series of records, each an Event message of
// tensorflow/core/util/event.proto; only the few fields used here are encoded.
package tfevents

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of Event, Summary, Summary.Value, Summary.Image and SessionLog.
const (
	eventWallTime, eventStep, eventFileVersion, eventSummary, eventSessionLog = 1, 2, 3, 5, 7

	summaryValue = 1

	valueTag, valueSimple, valueImage = 1, 2, 4

	imageHeight, imageWidth, imageColorspace, imageEncoded = 1, 2, 3, 4

	sessionStatus = 1
	sessionStart  = 1 // the value START of SessionLog.status
	rgb           = 3 // of Image.colorspace
)

const prefix = "events.out.tfevents."

// Scalar is one value of one curve. TensorBoard groups curves by what stands
// before the slash of their tags.
type Scalar struct {
	Tag   string
	Value float64
}

// Writer appends to an event file. It must not be used by two goroutines at
// once. What a method wrote is in the file when it returns.
type Writer struct {
	f *os.File
}

// Create makes a new event file in dir, which later events go to. TensorBoard
// reads the files of a folder in the order of their names, so the new one's
// sorts after those there, whatever the clock says.
func Create(dir string, now time.Time) (*Writer, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("create event file: %w", err)
	}
	second := now.Unix()
	for _, e := range entries {
		if name, ok := strings.CutPrefix(e.Name(), prefix); ok {
			digits, _, _ := strings.Cut(name, ".")
			if n, err := strconv.ParseInt(digits, 10, 64); err == nil {
				second = max(second, n+1)
			}
		}
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%s%010d.%s", prefix, second, host)),
		os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o666)
	if err != nil {
		return nil, fmt.Errorf("create event file: %w", err)
	}
	w := &Writer{f}
	b := event(now, 0)
	b = protowire.AppendTag(b, eventFileVersion, protowire.BytesType)
	b = protowire.AppendString(b, "brain.Event:2")
	if err := w.write(b); err != nil {
		f.Close()
		return nil, err
	}
	return w, nil
}

// Purge makes TensorBoard forget what earlier files say of step and later
// ones: a continued run does those again.
func (w *Writer) Purge(now time.Time, step int) error {
	b := event(now, step)
	b = protowire.AppendTag(b, eventSessionLog, protowire.BytesType)
	b = protowire.AppendBytes(b, appendInt(nil, sessionStatus, sessionStart))
	return w.write(b)
}

// Scalars writes one point of several curves. A value may be NaN, which
// TensorBoard shows as such.
func (w *Writer) Scalars(now time.Time, step int, scalars []Scalar) error {
	var summary []byte
	for _, s := range scalars {
		v := protowire.AppendTag(nil, valueTag, protowire.BytesType)
		v = protowire.AppendString(v, s.Tag)
		v = protowire.AppendTag(v, valueSimple, protowire.Fixed32Type)
		v = protowire.AppendFixed32(v, math.Float32bits(float32(s.Value)))
		summary = protowire.AppendTag(summary, summaryValue, protowire.BytesType)
		summary = protowire.AppendBytes(summary, v)
	}
	return w.summary(now, step, summary)
}

// PNG writes a picture of the given size, a whole PNG file in RGB.
func (w *Writer) PNG(now time.Time, step int, tag string, width, height int, png []byte) error {
	image := appendInt(nil, imageHeight, height)
	image = appendInt(image, imageWidth, width)
	image = appendInt(image, imageColorspace, rgb)
	image = protowire.AppendTag(image, imageEncoded, protowire.BytesType)
	image = protowire.AppendBytes(image, png)
	v := protowire.AppendTag(nil, valueTag, protowire.BytesType)
	v = protowire.AppendString(v, tag)
	v = protowire.AppendTag(v, valueImage, protowire.BytesType)
	v = protowire.AppendBytes(v, image)
	summary := protowire.AppendTag(nil, summaryValue, protowire.BytesType)
	return w.summary(now, step, protowire.AppendBytes(summary, v))
}

// Close closes the file.
func (w *Writer) Close() error { return w.f.Close() }

func (w *Writer) summary(now time.Time, step int, summary []byte) error {
	b := protowire.AppendTag(event(now, step), eventSummary, protowire.BytesType)
	return w.write(protowire.AppendBytes(b, summary))
}

// event begins an Event.
func event(now time.Time, step int) []byte {
	b := protowire.AppendTag(nil, eventWallTime, protowire.Fixed64Type)
	b = protowire.AppendFixed64(b, math.Float64bits(float64(now.UnixMicro())/1e6))
	return appendInt(b, eventStep, step)
}

func appendInt(b []byte, field protowire.Number, v int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(v))
}

// write appends a record in TensorFlow's framing (tensorflow/core/lib/io/
// record_writer.h): length, its checksum, data, their checksum. In one write:
// a process that is killed leaves at most the last record torn, at which
// TensorBoard goes on to the next file.
func (w *Writer) write(data []byte) error {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(data)))
	b = binary.LittleEndian.AppendUint32(b, maskedCRC(b))
	b = append(b, data...)
	b = binary.LittleEndian.AppendUint32(b, maskedCRC(data))
	_, err := w.f.Write(b)
	return err
}

// maskedCRC is CRC-32C, turned and shifted so that the checksum of bytes which
// hold checksums is still a good one (tensorflow/core/lib/hash/crc32c.h).
func maskedCRC(b []byte) uint32 {
	c := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
	return (c>>15 | c<<17) + 0xa282ead8
}
