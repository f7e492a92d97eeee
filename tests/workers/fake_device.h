/** Controls of the fake GPU (fake_device.c). */
#ifndef INGOT_TESTS_WORKERS_FAKE_DEVICE_H
#define INGOT_TESTS_WORKERS_FAKE_DEVICE_H

#include <stdatomic.h>

/** Called by ingot_device_count, which a real GPU takes time for; NULL: nothing. */
extern void (*fake_device_starting)(void);
/** Devices that are there, 1 at first; those of no use make ingot_device_use fail. */
extern atomic_int fake_device_number, fake_device_useless;

#endif
