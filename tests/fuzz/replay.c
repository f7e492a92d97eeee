/* Runs a fuzz target over its committed corpus, and over every prefix of each file. */
#define _POSIX_C_SOURCE 200809L

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

enum { MAX_BYTES = 1 << 16 };

static int replay(const char *path)
{
  FILE *f = fopen(path, "rb");
  if (!f) return 0;
  uint8_t *bytes = malloc(MAX_BYTES);
  size_t   size = bytes ? fread(bytes, 1, MAX_BYTES, f) : 0;
  fclose(f);
  for (size_t n = 0; bytes && n <= size; n++) {
    uint8_t *exact = malloc(n ? n : 1); /* so that a sanitizer sees a step beyond the end */
    if (!exact) break;
    memcpy(exact, bytes, n);
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
  }
  free(bytes);
  return 1;
}

int main(void)
{
  static const char folder[] = INGOT_TEST_DIR "/fuzz/corpus/" INGOT_CORPUS;
  char              path[4096];
  int               n_file = 0;
  DIR              *dir = opendir(folder);
  struct dirent    *entry;
  while (dir && (entry = readdir(dir)) != NULL) {
    if (entry->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
    n_file += replay(path);
  }
  if (dir) closedir(dir);
  printf("%d files of %s\n", n_file, folder);
  return n_file > 0 ? 0 : 1;
}
