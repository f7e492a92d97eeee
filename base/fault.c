#define _POSIX_C_SOURCE 200809L
#include "base/fault.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const struct {
  const char  *name;
  ingot_status status;
} points[INGOT_FAULT_COUNT] = {
    [INGOT_FAULT_READ] = {"read", INGOT_ERR_IO},       [INGOT_FAULT_WRITE] = {"write", INGOT_ERR_NOSPACE},
    [INGOT_FAULT_COMMIT] = {"commit", INGOT_ERR_IO},   [INGOT_FAULT_KILL] = {"kill", INGOT_ERR_INTERNAL},
    [INGOT_FAULT_LIST] = {"list", INGOT_ERR_INTERNAL}, [INGOT_FAULT_TIDY] = {"tidy", INGOT_ERR_INTERNAL},
    [INGOT_FAULT_STOP] = {"stop", INGOT_OK},           [INGOT_FAULT_SLOW] = {"slow", INGOT_OK},
};

/* Set before threads start; afterwards only the counter changes. */
static struct {
  int          point; /* -1: nothing planned */
  long long    at;
  atomic_llong seen;
} fault = {.point = -1};

ingot_status ingot_fault_init(const char *spec, int rank)
{
  char      name[16];
  int       at_rank, used = 0;
  long long at;
  fault.point = -1;
  if (!spec || !*spec) return INGOT_OK;
  if (sscanf(spec, "%15[a-z]@%d:%lld%n", name, &at_rank, &at, &used) != 3 || spec[used] != '\0')
    return ingot_fail(INGOT_ERR_USAGE, "INGOT_FAULT: \"%s\" is not POINT@RANK:N", spec);
  for (int i = 0; i < INGOT_FAULT_COUNT; i++) {
    if (strcmp(points[i].name, name) != 0) continue;
    fault.at = at;
    atomic_store(&fault.seen, 0);
    if (at_rank < 0 || rank == at_rank) fault.point = i;
    return INGOT_OK;
  }
  return ingot_fail(INGOT_ERR_USAGE, "INGOT_FAULT: there is no point \"%s\"", name);
}

ingot_status ingot_fault_check(ingot_fault_point point)
{
  if (fault.point != (int)point) return INGOT_OK;
  if (point == INGOT_FAULT_SLOW) {
    struct timespec pause = {.tv_sec = fault.at / 1000, .tv_nsec = (long)(fault.at % 1000) * 1000000};
    nanosleep(&pause, NULL);
    return INGOT_OK;
  }
  if (atomic_fetch_add(&fault.seen, 1) + 1 != fault.at) return INGOT_OK;
  if (point == INGOT_FAULT_KILL || point == INGOT_FAULT_LIST || point == INGOT_FAULT_TIDY) raise(SIGKILL);
  if (point == INGOT_FAULT_STOP) {
    kill(getpid(), SIGTERM); /* as from outside: any thread may get it */
    return INGOT_OK;
  }
  return ingot_fail(points[point].status, "planned fault: %s number %lld", points[point].name, fault.at);
}
