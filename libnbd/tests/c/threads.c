/* Several threads with one handle, and many handles. */

#include "check.h"

#include <pthread.h>

#define THREADS 8
#define ROUNDS 200

static struct nbd_handle *h;

static void *
work (void *data)
{
  static __thread char out[4096], in[4096];
  uintptr_t number = (uintptr_t)data;
  for (int round = 0; round < ROUNDS; round++) {
    memset (out, number * 31 + round, sizeof out);
    CHECK (nbd_pwrite (h, out, sizeof out, number * sizeof out, 0) == 0);
    CHECK (nbd_pread (h, in, sizeof in, number * sizeof in, 0) == 0);
    CHECK (memcmp (in, out, sizeof in) == 0);
    /* The error is each thread's own. */
    FAILS (nbd_pread (h, in, 0, 0, 0), EINVAL);
    CHECK (nbd_aio_is_dead (h) == 0);
  }
  return NULL;
}

int
main (int argc UNUSED, char *argv[])
{
  pthread_t threads[THREADS];
  h = connected (argv[1]);
  for (uintptr_t i = 0; i < THREADS; i++)
    CHECK (pthread_create (&threads[i], NULL, work, (void *)i) == 0);
  for (int i = 0; i < THREADS; i++)
    CHECK (pthread_join (threads[i], NULL) == 0);
  /* No call of these threads was this one's. */
  CHECK (nbd_get_error () == NULL);
  nbd_close (h);

  for (int i = 0; i < 1000; i++) {
    h = create ();
    CHECK (nbd_set_export_name (h, "disk") == 0);
    if (i % 10 == 0)
      CHECK (nbd_connect_uri (h, argv[1]) == 0);
    nbd_close (h);
  }
  return 0;
}
