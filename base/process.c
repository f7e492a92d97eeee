#include "base/process.h"

#include <stdio.h>

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
