/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Connections by libnbd: as `nbd-bench connect` and `nbd-bench connect-at-once`.
 *
 *   cc -O2 -o libnbd-connect libnbd-connect.c -lnbd
 *   libnbd-connect connect|connect-at-once --count N URI
 *
 * It makes N connections, one after the other or all at the same time in one
 * thread, prints what that took as a JSON object, and keeps the connections
 * until its standard input ends.
 */

#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/resource.h>

#include <libnbd.h>

static struct nbd_handle **handles;
static size_t count;

static void
fail (const char *what)
{
  fprintf (stderr, "libnbd-connect: %s\n", what);
  exit (EXIT_FAILURE);
}

static void
fail_nbd (void)
{
  fail (nbd_get_error ());
}

static void
one_by_one (const char *uri)
{
  size_t i;

  for (i = 0; i < count; i++)
    if (nbd_connect_uri (handles[i], uri) == -1)
      fail_nbd ();
}

/* Tells a handle what its socket is ready for. */
static void
notify (struct nbd_handle *nbd, short events)
{
  unsigned direction = nbd_aio_get_direction (nbd);
  int done = 0;

  if ((events & (POLLIN | POLLHUP | POLLERR)) && (direction & LIBNBD_AIO_DIRECTION_READ))
    done = nbd_aio_notify_read (nbd);
  else if ((events & POLLOUT) && (direction & LIBNBD_AIO_DIRECTION_WRITE))
    done = nbd_aio_notify_write (nbd);
  if (done == -1)
    fail_nbd ();
}

static void
at_once (const char *uri)
{
  struct pollfd *fds = calloc (count, sizeof *fds);
  size_t *owners = calloc (count, sizeof *owners);
  size_t i, left;

  if (fds == NULL || owners == NULL)
    fail ("out of memory");
  for (i = 0; i < count; i++)
    if (nbd_aio_connect_uri (handles[i], uri) == -1)
      fail_nbd ();
  for (;;) {
    left = 0;
    for (i = 0; i < count; i++) {
      unsigned direction;

      if (nbd_aio_is_ready (handles[i]))
        continue;
      if (nbd_aio_is_dead (handles[i]) || nbd_aio_is_closed (handles[i]))
        fail ("a connection could not be made");
      direction = nbd_aio_get_direction (handles[i]);
      fds[left].fd = nbd_aio_get_fd (handles[i]);
      fds[left].events = ((direction & LIBNBD_AIO_DIRECTION_READ) ? POLLIN : 0)
        | ((direction & LIBNBD_AIO_DIRECTION_WRITE) ? POLLOUT : 0);
      owners[left++] = i;
    }
    if (left == 0)
      break;
    if (poll (fds, left, -1) == -1)
      fail ("poll");
    for (i = 0; i < left; i++)
      if (fds[i].revents)
        notify (handles[owners[i]], fds[i].revents);
  }
  free (fds);
  free (owners);
}

static double
seconds (void)
{
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  return (double) now.tv_sec + (double) now.tv_nsec / 1e9;
}

static double
processor (struct timeval time)
{
  return (double) time.tv_sec + (double) time.tv_usec / 1e6;
}

int
main (int argc, char **argv)
{
  struct rusage before, after;
  double start, elapsed;
  bool together;
  size_t i;

  if (argc != 5 || strcmp (argv[2], "--count") != 0)
    fail ("usage: libnbd-connect connect|connect-at-once --count N URI");
  together = strcmp (argv[1], "connect-at-once") == 0;
  count = strtoul (argv[3], NULL, 10);
  handles = calloc (count, sizeof *handles);
  if (count == 0 || handles == NULL)
    fail ("how many connections?");

  getrusage (RUSAGE_SELF, &before);
  start = seconds ();
  for (i = 0; i < count; i++)
    if ((handles[i] = nbd_create ()) == NULL)
      fail_nbd ();
  if (together)
    at_once (argv[4]);
  else
    one_by_one (argv[4]);
  elapsed = seconds () - start;
  getrusage (RUSAGE_SELF, &after);

  printf ("{\"operations\": %zu, \"bytes\": 0, \"seconds\": %.6f"
          ", \"user_s\": %.6f, \"system_s\": %.6f, \"peak_kib\": %ld}\n",
          count, elapsed, processor (after.ru_utime) - processor (before.ru_utime),
          processor (after.ru_stime) - processor (before.ru_stime), after.ru_maxrss);
  fflush (stdout);
  while (getchar () != EOF)
    ;
  for (i = 0; i < count; i++) {
    if (nbd_shutdown (handles[i], 0) == -1)
      fail_nbd ();
    nbd_close (handles[i]);
  }
  free (handles);
  return EXIT_SUCCESS;
}
