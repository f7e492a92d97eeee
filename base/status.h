/**
 * Status codes and the error message of a thread.
 *
 * Every function that can fail returns an ingot_status and leaves its results in its last parameters. The function
 * that finds the fault calls ingot_fail with a message that is complete enough to print as it is: which thing, what
 * was expected, what was found. Callers that know more (the file, the step) put it in front with ingot_wrap. The
 * message is printed once, by the driver.
 */
#ifndef INGOT_BASE_STATUS_H
#define INGOT_BASE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ingot_status {
#define INGOT_STATUS(code, exit_code, text) INGOT_##code,
#include "base/status.def"
#undef INGOT_STATUS
  INGOT_STATUS_COUNT
} ingot_status;

#if defined(__GNUC__)
#define INGOT_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define INGOT_PRINTF(fmt, args)
#endif

/** The code's name without prefix ("ERR_FORMAT"). Never NULL. */
const char *ingot_status_name(ingot_status st);
/** One line of text for a code. Never NULL. */
const char *ingot_status_text(ingot_status st);
/** The process exit code of a status: 0, 1, 2, 3 or 75. */
int ingot_status_exit_code(ingot_status st);

/** Set this thread's message and return st. A message set earlier is replaced. */
ingot_status ingot_fail(ingot_status st, const char *fmt, ...) INGOT_PRINTF(2, 3);
/** Put "text: " in front of this thread's message and return st. Does nothing for INGOT_OK. */
ingot_status ingot_wrap(ingot_status st, const char *fmt, ...) INGOT_PRINTF(2, 3);
/** This thread's message, or "" after success. Valid until the thread's next ingot_fail, ingot_wrap or clear. */
const char *ingot_error_message(void);
void        ingot_error_clear(void);
/** Bytes of a message and of an origin, with the 0 at their end. */
enum { INGOT_MESSAGE_TEXT = 4096, INGOT_ORIGIN_TEXT = 320 };
/**
 * Who failed, "rank 3 on node7", where this thread's message is one that another process or this one has told to all;
 * "" otherwise. ingot_fail and clear empty it, ingot_wrap keeps it. Valid as long as the message.
 */
const char *ingot_error_origin(void);
void        ingot_error_set_origin(const char *origin);

/** A message with its origin, put by while more is tried that may fail: the first error is the one to tell. */
typedef struct ingot_error {
  char message[INGOT_MESSAGE_TEXT], origin[INGOT_ORIGIN_TEXT];
} ingot_error;
/** This thread's message and origin, "" after success. */
void ingot_error_save(ingot_error *out);
/** They are this thread's again, whatever came since. */
void ingot_error_restore(const ingot_error *saved);

/** Run an expression of type ingot_status; on failure go to `done` with `st` set. */
#define INGOT_TRY(expr)            \
  do {                             \
    st = (expr);                   \
    if (st != INGOT_OK) goto done; \
  } while (0)

/** Check a condition that input may break; on failure set the message and go to `done`. Never compiled away. */
#define INGOT_CHECK(cond, code, ...)      \
  do {                                    \
    if (!(cond)) {                        \
      st = ingot_fail(code, __VA_ARGS__); \
      goto done;                          \
    }                                     \
  } while (0)

/** Our own mistakes only: prints file and line and aborts. Never on input, never around a call that does something. */
#define INGOT_ASSERT(cond) ((cond) ? (void)0 : ingot_assert_failed(#cond, __FILE__, __LINE__))
#if defined(__GNUC__)
__attribute__((noreturn))
#endif
void ingot_assert_failed(const char *cond, const char *file, int line);

#ifdef __cplusplus
}
#endif
#endif
