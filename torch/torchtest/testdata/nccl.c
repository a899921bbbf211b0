/* A stand-in for libnccl.so.2 whose ranks are processes of one machine and whose buffers are in
 * host memory. Every collective has ended when its call returns. It checks what it is given, writes
 * each call to $FAKE_NCCL_LOG.<rank>, and goes wrong on request:
 *
 *   FAKE_NCCL_VERSION=21805       says that version
 *   FAKE_NCCL_FAIL=broadcast      that call of rank 0 returns an error
 *   FAKE_NCCL_LOST=reduce-scatter in that call of rank 0 NCCL finds a connection lost, and goes on
 * waiting FAKE_NCCL_HANG=1              an abort does not return
 */
#include <fcntl.h>

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_RANKS = 8, CHUNK = 1 << 20 };
enum { OK = 0, SYSTEM = 2, INVALID = 4, REMOTE = 6 };

/* All ranks map one file. A collective is a sequence of rounds: each rank posts a piece of what it
 * has, waits until all did, takes what it needs, and waits again. */
typedef struct {
  atomic_int round; /* counts the meetings */
  atomic_int waiting;
  char data[MAX_RANKS][CHUNK];
} shared;

typedef struct ncclComm {
  shared *s;
  int rank, ranks;
  atomic_int aborted, async_error;
  FILE *log;
} comm;

typedef struct {
  char bytes[128];
} id;

static int is(const char *name, const char *what) {
  const char *v = getenv(name);
  return v && !strcmp(v, what);
}

int ncclGetVersion(int *v) {
  const char *wanted = getenv("FAKE_NCCL_VERSION");
  *v = wanted ? atoi(wanted) : 22809;
  return OK;
}

int ncclGetUniqueId(id *out) {
  memset(out, 0, sizeof *out);
  snprintf(out->bytes, sizeof out->bytes, "%s/fake-nccl-XXXXXX",
           getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  int fd = mkstemp(out->bytes);
  if (fd < 0 || ftruncate(fd, sizeof(shared)) || close(fd)) return SYSTEM;
  out->bytes[127] = 42; /* all 128 bytes must reach the other ranks */
  return OK;
}

/* meet waits until all ranks have come; it returns an error where this one was aborted. */
static int meet(comm *c) {
  int round = atomic_load(&c->s->round);
  if (atomic_fetch_add(&c->s->waiting, 1) == c->ranks - 1) {
    atomic_store(&c->s->waiting, 0);
    atomic_fetch_add(&c->s->round, 1);
    return OK;
  }
  while (atomic_load(&c->s->round) == round) {
    if (atomic_load(&c->aborted)) return SYSTEM;
    usleep(20);
  }
  return OK;
}

int ncclCommInitRank(comm **out, int ranks, id where, int rank) {
  if (where.bytes[127] != 42 || ranks > MAX_RANKS || rank < 0 || rank >= ranks) return INVALID;
  int fd = open(where.bytes, O_RDWR);
  if (fd < 0) return SYSTEM;
  comm *c = calloc(1, sizeof *c);
  c->s = mmap(NULL, sizeof(shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (c->s == MAP_FAILED) return SYSTEM;
  c->rank = rank;
  c->ranks = ranks;
  const char *log = getenv("FAKE_NCCL_LOG");
  if (log) {
    char path[512];
    snprintf(path, sizeof path, "%s.%d", log, rank);
    c->log = fopen(path, "w");
  }
  int error = meet(c);
  if (rank == 0) unlink(where.bytes);
  *out = c;
  return error;
}

static void end(comm *c, const char *how) {
  if (c->log) {
    fprintf(c->log, "%s\n", how);
    fclose(c->log);
  }
}

int ncclCommDestroy(comm *c) {
  end(c, "destroy");
  munmap(c->s, sizeof *c->s);
  free(c);
  return OK;
}

int ncclCommAbort(comm *c) {
  atomic_store(&c->aborted, 1);
  end(c, "abort");
  while (is("FAKE_NCCL_HANG", "1")) pause();
  return OK; /* a call under way may still look at c */
}

int ncclCommGetAsyncError(comm *c, int *error) {
  *error = atomic_load(&c->async_error);
  return OK;
}

const char *ncclGetErrorString(int e) {
  return e == OK       ? "no error"
         : e == SYSTEM ? "unhandled system error"
         : e == REMOTE ? "remote process exited or there was a network error"
                       : "invalid argument";
}

const char *ncclGetLastError(comm *c) { return c ? "from the stand-in" : ""; }

static float half(uint16_t h) { /* normal numbers and 0 */
  uint32_t bits = (uint32_t)(h & 0x8000) << 16 |
                  (h & 0x7fff ? ((uint32_t)(h & 0x7fff) << 13) + (112u << 23) : 0);
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

static uint16_t to_half(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  return (bits >> 16 & 0x8000) |
         (bits & 0x7fffffff ? ((bits & 0x7fffffff) - (112u << 23)) >> 13 : 0);
}

static float brain(uint16_t b) {
  uint32_t bits = (uint32_t)b << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

static uint16_t to_brain(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static const size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};

#define COMBINE(T)                                    \
  {                                                   \
    T *a = into;                                      \
    const T *b = from;                                \
    for (size_t i = 0; i < n; i++)                    \
      a[i] = op == 0   ? a[i] + b[i]                  \
             : op == 2 ? (b[i] > a[i] ? b[i] : a[i])  \
                       : (b[i] < a[i] ? b[i] : a[i]); \
    return OK;                                        \
  }

#define COMBINE_AS_FLOAT(get, put)                                               \
  {                                                                              \
    uint16_t *a = into;                                                          \
    const uint16_t *b = from;                                                    \
    for (size_t i = 0; i < n; i++) {                                             \
      float x = get(a[i]), y = get(b[i]);                                        \
      a[i] = put(op == 0 ? x + y : op == 2 ? (y > x ? y : x) : (y < x ? y : x)); \
    }                                                                            \
    return OK;                                                                   \
  }

static int combine(void *into, const void *from, size_t n, int type, int op) {
  if (op != 0 && op != 2 && op != 3) return INVALID;
  switch (type) {
    case 1: COMBINE(uint8_t)
    case 2: COMBINE(int32_t)
    case 4: COMBINE(int64_t)
    case 6: COMBINE_AS_FLOAT(half, to_half)
    case 7: COMBINE(float)
    case 8: COMBINE(double)
    case 9: COMBINE_AS_FLOAT(brain, to_brain)
  }
  return INVALID;
}

/* begin notes a call and lets it go wrong. */
static int begin(comm *c, const char *what, size_t n, int type, int more, void *stream) {
  if (c->log) {
    fprintf(c->log, "%s n=%zu type=%d more=%d\n", what, n, type, more);
    fflush(c->log);
  }
  if (type < 0 || type > 9 || stream) return INVALID;
  if (c->rank == 0 && is("FAKE_NCCL_FAIL", what)) return SYSTEM;
  if (c->rank == 0 && is("FAKE_NCCL_LOST", what)) {
    atomic_store(&c->async_error, REMOTE);
    while (!atomic_load(&c->aborted)) usleep(1000);
    return SYSTEM;
  }
  return OK;
}

/* Elements that fit in one piece. */
#define PIECE(size) (CHUNK / (size))

int ncclAllReduce(const void *in, void *out, size_t n, int type, int op, comm *c, void *stream) {
  int e = begin(c, "all-reduce", n, type, op, stream);
  for (size_t at = 0, k; !e && at < n; at += k) {
    size_t size = sizes[type];
    k = n - at < PIECE(size) ? n - at : PIECE(size);
    memcpy(c->s->data[c->rank], (const char *)in + at * size, k * size);
    if ((e = meet(c))) break;
    memcpy((char *)out + at * size, c->s->data[0], k * size);
    for (int r = 1; r < c->ranks && !e; r++)
      e = combine((char *)out + at * size, c->s->data[r], k, type, op);
    if (!e) e = meet(c);
  }
  return e;
}

int ncclReduceScatter(const void *in, void *out, size_t n, int type, int op, comm *c,
                      void *stream) {
  int e = begin(c, "reduce-scatter", n, type, op, stream);
  for (int part = 0; part < c->ranks; part++)
    for (size_t at = 0, k; !e && at < n; at += k) {
      size_t size = sizes[type];
      k = n - at < PIECE(size) ? n - at : PIECE(size);
      memcpy(c->s->data[c->rank], (const char *)in + (part * n + at) * size, k * size);
      if ((e = meet(c))) break;
      if (part == c->rank) {
        memcpy((char *)out + at * size, c->s->data[0], k * size);
        for (int r = 1; r < c->ranks && !e; r++)
          e = combine((char *)out + at * size, c->s->data[r], k, type, op);
      }
      if (!e) e = meet(c);
    }
  return e;
}

int ncclAllGather(const void *in, void *out, size_t n, int type, comm *c, void *stream) {
  int e = begin(c, "all-gather", n, type, 0, stream);
  for (size_t at = 0, k; !e && at < n; at += k) {
    size_t size = sizes[type];
    k = n - at < PIECE(size) ? n - at : PIECE(size);
    memcpy(c->s->data[c->rank], (const char *)in + at * size, k * size);
    if ((e = meet(c))) break;
    for (int r = 0; r < c->ranks; r++)
      memcpy((char *)out + (r * n + at) * size, c->s->data[r], k * size);
    e = meet(c);
  }
  return e;
}

int ncclBroadcast(const void *in, void *out, size_t n, int type, int root, comm *c, void *stream) {
  int e = begin(c, "broadcast", n, type, root, stream);
  if (!e && (root < 0 || root >= c->ranks)) e = INVALID;
  for (size_t at = 0, k; !e && at < n; at += k) {
    size_t size = sizes[type];
    k = n - at < PIECE(size) ? n - at : PIECE(size);
    if (c->rank == root) memcpy(c->s->data[root], (const char *)in + at * size, k * size);
    if ((e = meet(c))) break;
    memcpy((char *)out + at * size, c->s->data[root], k * size);
    e = meet(c);
  }
  return e;
}
