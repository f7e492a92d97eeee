/** What tests of sinks on one rank start with. A fixture's first member is a sink_fixture; the rest of it starts as
 * zeros. */
#ifndef INGOT_TESTS_IO_SINK_FIXTURE_H
#define INGOT_TESTS_IO_SINK_FIXTURE_H

#include "io/sink.h"
#include "tests/io/scratch.h"

typedef struct sink_fixture {
  scratch     scratch;
  ingot_comm *comm;
  char        path[SCRATCH_PATH]; /* of the output */
} sink_fixture;

static inline int sink_fixture_begin(void **state, size_t bytes)
{
  sink_fixture *f = calloc(1, bytes);
  assert_non_null(f);
  scratch_begin(&f->scratch);
  assert_int_equal(ingot_comm_init(NULL, NULL, &f->comm), INGOT_OK);
  *state = f;
  return 0;
}

static inline int sink_fixture_end(void **state)
{
  sink_fixture *f = *state;
  ingot_comm_finalize(&f->comm);
  scratch_end(&f->scratch);
  free(f);
  return 0;
}

#endif
