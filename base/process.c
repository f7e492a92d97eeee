#define _DEFAULT_SOURCE
#include "base/process.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

uint64_t ingot_process_anon_bytes(void)
{
  unsigned long long kib = 0;
  char               line[128];
  FILE              *f = fopen("/proc/self/status", "r");
  if (!f) return 0;
  while (fgets(line, sizeof line, f))
    if (sscanf(line, "RssAnon: %llu", &kib) == 1) break;
  fclose(f);
  return (uint64_t)kib * 1024;
}

/* The number in a file; 0: none, or "max". */
static uint64_t read_number(const char *path)
{
  unsigned long long value = 0;
  FILE              *f = fopen(path, "r");
  if (!f) return 0;
  if (fscanf(f, "%llu", &value) != 1) value = 0;
  fclose(f);
  return (uint64_t)value;
}

/* The least limit of a control group and those above it. */
static uint64_t least_limit(const char *root, const char *group, const char *name, uint64_t least)
{
  char at[512], path[1200];
  snprintf(at, sizeof at, "%s", group);
  for (;;) {
    snprintf(path, sizeof path, "%s%s/%s", root, strcmp(at, "/") == 0 ? "" : at, name);
    uint64_t limit = read_number(path);
    if (limit > 0 && limit < least) least = limit;
    char *slash = strrchr(at, '/');
    if (!slash || !at[0]) break;
    *slash = '\0';
  }
  return least;
}

uint64_t ingot_process_memory_bytes(void)
{
  long     pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  uint64_t bytes = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
  char     line[600];
  FILE    *f = fopen("/proc/self/cgroup", "r");
  if (!f || bytes == 0) goto done;
  while (fgets(line, sizeof line, f)) {
    line[strcspn(line, "\n")] = '\0';
    char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group) continue;
    *group++ = '\0';
    if (strcmp(controllers, ":") == 0) bytes = least_limit("/sys/fs/cgroup", group, "memory.max", bytes);
    if (strcmp(controllers, ":memory") == 0)
      bytes = least_limit("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes", bytes);
  }
done:
  if (f) fclose(f);
  return bytes;
}

void ingot_process_failed_rank(int rank, char text[INGOT_ORIGIN_TEXT])
{
  char host[256] = "";
  if (*ingot_error_origin()) {
    snprintf(text, INGOT_ORIGIN_TEXT, "%s", ingot_error_origin());
    return;
  }
  if (gethostname(host, sizeof host - 1) != 0 || !host[0]) strcpy(host, "unknown host");
  snprintf(text, INGOT_ORIGIN_TEXT, "rank %d on %.200s", rank, host);
}
