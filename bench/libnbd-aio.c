/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The other side of `cargo xtask bench`: the same load as `nbd-bench`, on
 * libnbd's asynchronous API.  One connection, one thread, and always `depth`
 * requests in flight until `count` have been submitted.
 *
 *   cc -O2 -o libnbd-aio libnbd-aio.c -lnbd
 *   libnbd-aio [--rw read|write] [--pattern rand|seq|check|count]
 *              [--size 4k] [--depth N] [--count N] URI
 *
 * It prints one JSON object, as nbd-bench does.  With the pattern "check" each
 * block is written or read once; what is written is known, and what is read is
 * compared: each eight bytes tell where they are.  With "count" the places are
 * random, and what requests took is not put in order, which would count among
 * the instructions.
 *
 * What makes it fair: read buffers are not cleared first, each request has a
 * buffer of its own for the whole run, commands retire themselves from the
 * completion callback, and a new one is submitted as soon as one completes.
 */

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/resource.h>

#include <libnbd.h>

static struct nbd_handle *nbd;

/* The load. */
static bool writing = false;
static bool sequential = false;
static bool check = false;
static bool sorted = true;
static uint64_t size = 4096;   /* bytes in a request */
static uint64_t depth = 64;    /* requests in flight */
static uint64_t count = 100000; /* requests in all */

/* One of the `depth` requests in flight. */
struct slot {
  char *buffer;
  uint64_t offset;
  uint64_t start;    /* when it was submitted, in nanoseconds */
  struct slot *next; /* in the list of free slots */
};

static struct slot *free_slots;
static uint64_t completed;
static uint64_t *latencies; /* of those that are completed, in nanoseconds */
static uint64_t now;        /* when the last completion was seen */
static uint64_t blocks; /* requests that fit in the export side by side */

static void
fail (const char *what)
{
  fprintf (stderr, "libnbd-aio: %s\n", what);
  exit (EXIT_FAILURE);
}

static void
fail_nbd (void)
{
  fail (nbd_get_error ());
}

/* xorshift64*: a fixed seed, so that each run asks for the same blocks. */
static uint64_t
next_random (void)
{
  static uint64_t state = UINT64_C (0x9e3779b97f4a7c15);

  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return state * UINT64_C (0x2545f4914f6cdd1d);
}

static uint64_t
nanoseconds (void)
{
  struct timespec time;

  clock_gettime (CLOCK_MONOTONIC, &time);
  return (uint64_t) time.tv_sec * 1000000000 + (uint64_t) time.tv_nsec;
}

/* What eight bytes of a known block hold: their offset, big end first. */
static uint64_t
known (uint64_t offset)
{
  return htobe64 (offset);
}

static void
look (const struct slot *slot)
{
  uint64_t at, word;

  for (at = 0; at < size; at += sizeof word) {
    memcpy (&word, slot->buffer + at, sizeof word);
    if (word != known (slot->offset + at))
      fail ("what was read is wrong");
  }
}

static void
fill (struct slot *slot)
{
  uint64_t at, word;

  for (at = 0; at < size; at += sizeof word) {
    word = known (slot->offset + at);
    memcpy (slot->buffer + at, &word, sizeof word);
  }
}

/* Called when a command completes; returning 1 retires it. */
static int
complete (void *opaque, int *error)
{
  struct slot *slot = opaque;

  if (*error)
    fail (strerror (*error));
  if (check && !writing)
    look (slot);
  now = nanoseconds ();
  latencies[completed] = now - slot->start;
  slot->next = free_slots;
  free_slots = slot;
  completed++;
  return 1;
}

static void
submit (uint64_t number)
{
  struct slot *slot = free_slots;
  uint64_t block = (sequential ? number : next_random ()) % blocks;
  nbd_completion_callback callback = { .callback = complete,
                                       .user_data = slot };
  int64_t cookie;

  free_slots = slot->next;
  slot->offset = block * size;
  slot->start = now;
  if (check && writing)
    fill (slot);
  if (writing)
    cookie = nbd_aio_pwrite (nbd, slot->buffer, size, slot->offset, callback, 0);
  else
    cookie = nbd_aio_pread (nbd, slot->buffer, size, slot->offset, callback, 0);
  if (cookie == -1)
    fail_nbd ();
}

static uint64_t
parse_number (const char *text)
{
  char *end;
  uint64_t number;

  errno = 0;
  number = strtoull (text, &end, 10);
  if (end == text || *text == '-' || errno != 0)
    fail ("a number was expected");
  switch (*end) {
  case 'k': case 'K': number <<= 10; end++; break;
  case 'm': case 'M': number <<= 20; end++; break;
  }
  if (*end != '\0' || number == 0)
    fail ("a number above 0 was expected, with k or M for binary multiples");
  return number;
}

static bool
choose (const char *value, const char *no, const char *yes)
{
  if (strcmp (value, yes) == 0)
    return true;
  if (strcmp (value, no) != 0)
    fail ("an option has an unknown value");
  return false;
}

/* Returns the URI. */
static const char *
parse_options (int argc, char **argv)
{
  int i;

  for (i = 1; i + 1 < argc; i += 2) {
    const char *option = argv[i], *value = argv[i + 1];

    if (strcmp (option, "--rw") == 0)
      writing = choose (value, "read", "write");
    else if (strcmp (option, "--pattern") == 0) {
      check = strcmp (value, "check") == 0;
      sorted = strcmp (value, "count") != 0;
      sequential = check || (sorted && choose (value, "rand", "seq"));
    }
    else if (strcmp (option, "--size") == 0)
      size = parse_number (value);
    else if (strcmp (option, "--depth") == 0)
      depth = parse_number (value);
    else if (strcmp (option, "--count") == 0)
      count = parse_number (value);
    else
      fail ("unknown option");
  }
  if (i + 1 != argc)
    fail ("the last argument must be an NBD URI");
  return argv[i];
}

static void
make_slots (void)
{
  uint64_t i;

  for (i = 0; i < depth; i++) {
    struct slot *slot = malloc (sizeof *slot);
    char *buffer = malloc (size);

    if (slot == NULL || buffer == NULL)
      fail ("out of memory");
    /* Touch each page now, not while the clock runs. */
    memset (buffer, (int) i, size);
    slot->buffer = buffer;
    slot->next = free_slots;
    free_slots = slot;
  }
}

static int
compare (const void *left, const void *right)
{
  uint64_t a = *(const uint64_t *) left, b = *(const uint64_t *) right;

  return (a > b) - (a < b);
}

/* What so many of a thousand requests took at most, in microseconds. */
static double
quantile (uint64_t of_thousand)
{
  uint64_t rank = (count * of_thousand + 999) / 1000;

  return (double) latencies[rank - 1] / 1000;
}

static double
seconds (struct timeval time)
{
  return (double) time.tv_sec + (double) time.tv_usec / 1e6;
}

int
main (int argc, char **argv)
{
  const char *uri = parse_options (argc, argv);
  uint64_t submitted = 0;
  uint64_t start, elapsed;
  struct rusage before, after;
  int64_t export_size;

  nbd = nbd_create ();
  if (nbd == NULL)
    fail_nbd ();
  /* The URI may name the files of certificates and keys. */
  if (nbd_set_pread_initialize (nbd, false) == -1
      || nbd_set_uri_allow_local_file (nbd, true) == -1
      || nbd_connect_uri (nbd, uri) == -1)
    fail_nbd ();
  export_size = nbd_get_size (nbd);
  if (export_size == -1)
    fail_nbd ();
  blocks = (uint64_t) export_size / size;
  if (blocks == 0)
    fail ("the export is smaller than one request");
  if (check)
    count = blocks;
  latencies = malloc (count * sizeof *latencies);
  if (latencies == NULL)
    fail ("out of memory");
  make_slots ();

  getrusage (RUSAGE_SELF, &before);
  start = now = nanoseconds ();
  while (completed < count) {
    while (submitted < count && free_slots != NULL)
      submit (submitted++);
    /* A reply can already have come while the requests were being sent. */
    if (completed < count && nbd_poll (nbd, -1) == -1)
      fail_nbd ();
  }
  elapsed = nanoseconds () - start;
  getrusage (RUSAGE_SELF, &after);

  if (nbd_shutdown (nbd, 0) == -1)
    fail_nbd ();
  nbd_close (nbd);
  while (free_slots != NULL) {
    struct slot *slot = free_slots;

    free_slots = slot->next;
    free (slot->buffer);
    free (slot);
  }
  if (sorted)
    qsort (latencies, count, sizeof *latencies, compare);
  printf ("{\"operations\": %" PRIu64 ", \"bytes\": %" PRIu64
          ", \"seconds\": %.6f, \"user_s\": %.6f, \"system_s\": %.6f"
          ", \"peak_kib\": %ld"
          ", \"p50_us\": %.1f, \"p99_us\": %.1f, \"p99_9_us\": %.1f}\n",
          count, count * size, (double) elapsed / 1e9,
          seconds (after.ru_utime) - seconds (before.ru_utime),
          seconds (after.ru_stime) - seconds (before.ru_stime),
          after.ru_maxrss, quantile (500), quantile (990), quantile (999));
  free (latencies);
  return EXIT_SUCCESS;
}
