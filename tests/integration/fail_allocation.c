/*
 * For LD_PRELOAD: lets one allocation of a program fail, for allocations.sh.
 *
 *   FAIL_ALLOCATION=N            the first allocation of the N-th place, counted from 1, fails: out of memory
 *   FAIL_ALLOCATION_ON=1         and from there on all of the program's allocations fail
 *   FAIL_ALLOCATION_LIST=FILE    when the program ends, the places are written into FILE, a line each
 *
 * A place is where an allocation is called in the program itself, and from where the calling functions were called;
 * places are numbered in the order in which they are come to. What the program's libraries allocate, and what is
 * allocated before main begins, does not count.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* glibc's own, under the names that are not replaced here. */
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *old, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

typedef int main_function(int argc, char **argv, char **environment);

int __libc_start_main(main_function *program, int argc, char **argv, main_function *init, void (*fini)(void),
                      void (*rtld_fini)(void), void *stack_end);

enum { MAX_FRAMES = 64, MAX_PLACES = 1 << 16 /* a power of two, many more than there are */ };

static struct {
  atomic_bool     counting, out; /* out: all fail */
  bool            stays_out;
  uintptr_t       begin, end; /* the program's code */
  main_function  *program;
  long            fail_at, count;
  uint64_t        places[MAX_PLACES];   /* hashes by open addressing; 0: free */
  uint64_t        list[MAX_PLACES / 2]; /* the same in the order in which they were come to */
  pthread_mutex_t mutex;
} hook = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static bool in_program(const void *address)
{
  return (uintptr_t)address >= hook.begin && (uintptr_t)address < hook.end;
}

/* Of the program's addresses from the caller of an allocation on; the same in every run. */
static uint64_t place_of(const void *caller)
{
  void    *frames[MAX_FRAMES];
  int      n = backtrace(frames, MAX_FRAMES), first = 0;
  uint64_t hash = 0xcbf29ce484222325u;
  while (first < n && frames[first] != caller) first++;
  for (int i = first; i < n; i++)
    if (in_program(frames[i])) hash = (hash ^ ((uintptr_t)frames[i] - hook.begin)) * 0x100000001b3u;
  return hash ? hash : 1;
}

static bool is_new(uint64_t place)
{
  size_t at = (size_t)(place ^ place >> 32) % MAX_PLACES;
  while (hook.places[at] != 0 && hook.places[at] != place) at = (at + 1) % MAX_PLACES;
  if (hook.places[at] == place) return false;
  hook.places[at] = place;
  return true;
}

static bool shall_fail(const void *caller)
{
  if (!atomic_load(&hook.counting) || !in_program(caller)) return false;
  if (atomic_load(&hook.out)) {
    errno = ENOMEM;
    return true;
  }
  uint64_t place = place_of(caller);
  pthread_mutex_lock(&hook.mutex);
  bool fails = false;
  if (hook.count < MAX_PLACES / 2 && is_new(place)) {
    hook.list[hook.count++] = place;
    fails = hook.count == hook.fail_at;
  }
  pthread_mutex_unlock(&hook.mutex);
  if (fails) errno = ENOMEM;
  if (fails && hook.stays_out) atomic_store(&hook.out, true);
  return fails;
}

void *malloc(size_t bytes)
{
  return shall_fail(__builtin_return_address(0)) ? NULL : __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
  return shall_fail(__builtin_return_address(0)) ? NULL : __libc_calloc(count, bytes);
}

void *realloc(void *old, size_t bytes)
{
  return shall_fail(__builtin_return_address(0)) ? NULL : __libc_realloc(old, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
  return shall_fail(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, bytes);
}

int posix_memalign(void **out, size_t alignment, size_t bytes)
{
  void *memory = shall_fail(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, bytes);
  if (!memory) return ENOMEM;
  *out = memory;
  return 0;
}

/* The first object is the program. */
static int find_program(struct dl_phdr_info *object, size_t bytes, void *unused)
{
  (void)bytes, (void)unused;
  for (int i = 0; i < object->dlpi_phnum; i++) {
    const ElfW(Phdr) *part = &object->dlpi_phdr[i];
    if (part->p_type != PT_LOAD || !(part->p_flags & PF_X)) continue;
    hook.begin = object->dlpi_addr + part->p_vaddr;
    hook.end = hook.begin + part->p_memsz;
  }
  return 1;
}

static void list_places(void)
{
  const char *path = getenv("FAIL_ALLOCATION_LIST");
  atomic_store(&hook.counting, false);
  FILE *file = path ? fopen(path, "w") : NULL;
  if (!file) return;
  for (long i = 0; i < hook.count; i++) fprintf(file, "%016llx\n", (unsigned long long)hook.list[i]);
  fclose(file);
}

static int counted_main(int argc, char **argv, char **environment)
{
  const char *fail_at = getenv("FAIL_ALLOCATION");
  void       *frame;
  hook.fail_at = fail_at ? atol(fail_at) : 0;
  hook.stays_out = getenv("FAIL_ALLOCATION_ON") != NULL;
  dl_iterate_phdr(find_program, NULL);
  (void)backtrace(&frame, 1); /* the first call may load a library */
  atomic_store(&hook.counting, true);
  int code = hook.program(argc, argv, environment);
  list_places();
  return code;
}

/* The end of a program that was built with CUDA. */
void _exit(int code)
{
  list_places();
  for (;;) syscall(SYS_exit_group, code);
}

/* Every program's start calls this with its main. */
int __libc_start_main(main_function *program, int argc, char **argv, main_function *init, void (*fini)(void),
                      void (*rtld_fini)(void), void *stack_end)
{
  int (*start)(main_function *, int, char **, main_function *, void (*)(void), void (*)(void), void *);
  *(void **)&start = dlsym(RTLD_NEXT, "__libc_start_main");
  hook.program = program;
  return start(counted_main, argc, argv, init, fini, rtld_fini, stack_end);
}
