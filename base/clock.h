/** Monotonic seconds, for timing and progress. */
#ifndef INGOT_BASE_CLOCK_H
#define INGOT_BASE_CLOCK_H

#ifdef __cplusplus
extern "C" {
#endif

/** Seconds since some fixed moment of this process's machine. */
double ingot_clock_s(void);
/** User and system CPU seconds of this process so far. */
double ingot_clock_cpu_s(void);

#ifdef __cplusplus
}
#endif
#endif
