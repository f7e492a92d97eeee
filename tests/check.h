/* What every CMocka test includes, in the order CMocka wants. */
#ifndef INGOT_TESTS_CHECK_H
#define INGOT_TESTS_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"

/** The call succeeded; prints its message when it did not. */
#define check_ok(call)                                                                                 \
  do {                                                                                                 \
    ingot_status st_ = (call);                                                                         \
    if (st_ != INGOT_OK) fail_msg("%s: %s: %s", #call, ingot_status_name(st_), ingot_error_message()); \
  } while (0)

/** The call failed with this status, and its message contains this text. */
#define check_fails(call, status, text)                                                            \
  do {                                                                                             \
    ingot_status st_ = (call);                                                                     \
    if (st_ != (status)) fail_msg("%s: %s instead of %s", #call, ingot_status_name(st_), #status); \
    if (!strstr(ingot_error_message(), (text)))                                                    \
      fail_msg("%s: message \"%s\" lacks \"%s\"", #call, ingot_error_message(), (text));           \
  } while (0)

#endif
