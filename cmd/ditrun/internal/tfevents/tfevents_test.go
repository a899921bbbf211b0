package tfevents

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 250e6, time.UTC)

// records reads the framing as TensorFlow's reader does: it unmasks the stored
// checksum, where the writer masks the computed one.
func records(t *testing.T, b []byte) [][]byte {
	t.Helper()
	check := func(stored uint32, b []byte) {
		t.Helper()
		rot := stored - 0xa282ead8
		if got, want := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)), rot>>17|rot<<15; got != want {
			t.Fatalf("checksum %08x, want %08x", want, got)
		}
	}
	var all [][]byte
	for len(b) > 0 {
		if len(b) < 16 {
			t.Fatalf("%d bytes left, want a record", len(b))
		}
		check(binary.LittleEndian.Uint32(b[8:]), b[:8])
		n := binary.LittleEndian.Uint64(b)
		if n > uint64(len(b)-16) {
			t.Fatalf("a record of %d bytes, %d are left", n, len(b)-16)
		}
		data := b[12 : 12+n]
		check(binary.LittleEndian.Uint32(b[12+n:]), data)
		all = append(all, data)
		b = b[16+n:]
	}
	return all
}

// eventType is the part of event.proto and summary.proto that is written, for
// the protobuf library's own decoder.
func eventType(t *testing.T) protoreflect.MessageDescriptor {
	t.Helper()
	type field struct {
		name   string
		number int32
		kind   descriptorpb.FieldDescriptorProto_Type
		of     string
	}
	const (
		message = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
		text    = descriptorpb.FieldDescriptorProto_TYPE_STRING
		i32     = descriptorpb.FieldDescriptorProto_TYPE_INT32
	)
	file := &descriptorpb.FileDescriptorProto{Name: proto.String("event.proto"), Syntax: proto.String("proto3"),
		Package: proto.String("x")}
	for _, m := range []struct {
		name   string
		fields []field
	}{
		{"Event", []field{{"wall_time", 1, descriptorpb.FieldDescriptorProto_TYPE_DOUBLE, ""},
			{"step", 2, descriptorpb.FieldDescriptorProto_TYPE_INT64, ""},
			{"file_version", 3, text, ""}, {"summary", 5, message, "Summary"},
			{"session_log", 7, message, "SessionLog"}}},
		{"Summary", []field{{"value", 1, message, "Value"}}},
		{"Value", []field{{"tag", 1, text, ""}, {"simple_value", 2, descriptorpb.FieldDescriptorProto_TYPE_FLOAT, ""},
			{"image", 4, message, "Image"}}},
		{"Image", []field{{"height", 1, i32, ""}, {"width", 2, i32, ""}, {"colorspace", 3, i32, ""},
			{"encoded_image_string", 4, descriptorpb.FieldDescriptorProto_TYPE_BYTES, ""}}},
		{"SessionLog", []field{{"status", 1, i32, ""}}},
	} {
		d := &descriptorpb.DescriptorProto{Name: proto.String(m.name)}
		for _, f := range m.fields {
			label := descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL
			if m.name == "Summary" {
				label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED
			}
			fd := &descriptorpb.FieldDescriptorProto{Name: proto.String(f.name), Number: proto.Int32(f.number),
				Type: f.kind.Enum(), Label: label.Enum()}
			if f.of != "" {
				fd.TypeName = proto.String(".x." + f.of)
			}
			d.Field = append(d.Field, fd)
		}
		file.MessageType = append(file.MessageType, d)
	}
	desc, err := protodesc.NewFile(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	return desc.Messages().ByName("Event")
}

// describe writes the decoded events in words.
func describe(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	event := eventType(t)
	var lines []string
	for _, data := range records(t, b) {
		m := dynamicpb.NewMessage(event)
		if err := proto.Unmarshal(data, m); err != nil {
			t.Fatal(err)
		}
		if len(m.GetUnknown()) > 0 {
			t.Errorf("unknown fields %x", m.GetUnknown())
		}
		get := func(m protoreflect.Message, name protoreflect.Name) protoreflect.Value {
			return m.Get(m.Descriptor().Fields().ByName(name))
		}
		if at := get(m, "wall_time").Float(); at != float64(noon.UnixMilli())/1e3 {
			t.Errorf("wall time %f", at)
		}
		line := fmt.Sprintf("%d", get(m, "step").Int())
		if v := get(m, "file_version").String(); v != "" {
			line += " version " + v
		}
		if v := get(m, "session_log").Message(); v.IsValid() {
			line += fmt.Sprintf(" status %d", get(v, "status").Int())
		}
		if v := get(m, "summary").Message(); v.IsValid() {
			values := get(v, "value").List()
			for i := range values.Len() {
				value := values.Get(i).Message()
				line += fmt.Sprintf(" %s=", get(value, "tag").String())
				if img := get(value, "image").Message(); img.IsValid() {
					line += fmt.Sprintf("%dx%d/%d:%s", get(img, "width").Int(), get(img, "height").Int(),
						get(img, "colorspace").Int(), get(img, "encoded_image_string").Bytes())
				} else {
					line += fmt.Sprint(get(value, "simple_value").Float())
				}
			}
		}
		lines = append(lines, line)
	}
	return lines
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, prefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestEvents(t *testing.T) {
	dir := t.TempDir()
	w, err := Create(dir, noon)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		w.Purge(noon, 301),
		w.Scalars(noon, 400, []Scalar{{"train/loss", 0.25}, {"train/vb", math.NaN()}, {"train/lr", 0}}),
		w.PNG(noon, 500, "preview", 30, 20, []byte("picture")),
		w.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"0 version brain.Event:2", "301 status 1", "400 train/loss=0.25 train/vb=NaN train/lr=0",
		"500 preview=30x20/3:picture"}
	if got := describe(t, files(t, dir)[0]); !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

// TestBytes compares with what tensorboard 2.21's RecordWriter makes of
// Event(wall_time=1, step=301, session_log=SessionLog(status=START)).
func TestBytes(t *testing.T) {
	dir := t.TempDir()
	w, err := Create(dir, noon)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Purge(time.Unix(1, 0), 301); err != nil {
		t.Fatal(err)
	}
	const want = "100000000000000095fbfe1809000000000000f03f10ad023a020801f6e86c77"
	b, err := os.ReadFile(files(t, dir)[0])
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(b); !strings.HasSuffix(got, want) {
		t.Errorf("file %s, want it to end in %s", got, want)
	}
}

// TestLaterFilesSortLast starts files within a second, and with a clock that went back.
func TestLaterFilesSortLast(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, prefix+"foreign"), nil, 0o666)
	for _, now := range []time.Time{noon, noon, noon.Add(-time.Hour), noon.Add(time.Hour)} {
		before := files(t, dir) // the last of them is the foreign one
		w, err := Create(dir, now)
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
		after := files(t, dir)
		last := len(before) - 1
		if len(after) != len(before)+1 || !slices.Equal(after[:last], before[:last]) {
			t.Errorf("the file made at %v is not behind %q", now, before)
		}
	}
}

func TestNoFolder(t *testing.T) {
	if _, err := Create(filepath.Join(t.TempDir(), "none"), noon); err == nil ||
		!strings.HasPrefix(err.Error(), "create event file: ") {
		t.Errorf("error %v", err)
	}
}
