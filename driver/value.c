#include "driver/value.h"

#include <ctype.h>
#include <errno.h>
#include <libconfig.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { JOB_FILE_MAX = 16 << 20, INCLUDE_DEPTH_MAX = 10, LIST_MAX = 1 << 20 };

static const char *const kind_texts[] = {"a whole number", "a number",    "true or false",
                                         "a string",       "a group { }", "a list ( )"};

const char *ingot_value_kind_text(ingot_value_kind kind)
{
  return kind_texts[kind];
}

bool ingot_value_is_number(const ingot_value *v)
{
  return v->kind == INGOT_VALUE_INT || v->kind == INGOT_VALUE_REAL;
}

const ingot_value *ingot_value_member(const ingot_value *group, const char *name)
{
  for (int i = 0; i < group->n_item; i++)
    if (group->item[i]->name && strcmp(group->item[i]->name, name) == 0) return group->item[i];
  return NULL;
}

static int index_in_parent(const ingot_value *v)
{
  for (int i = 0; i < v->parent->n_item; i++)
    if (v->parent->item[i] == v) return i;
  return -1;
}

/* Appends ".name" or "[i]" of every level; returns the length so far. */
static size_t path_text(const ingot_value *v, char *text, size_t room)
{
  if (!v->parent) return 0;
  size_t used = path_text(v->parent, text, room);
  if (used >= room) return used;
  int more = v->name ? snprintf(text + used, room - used, "%s%s", used ? "." : "", v->name)
                     : snprintf(text + used, room - used, "[%d]", index_in_parent(v));
  return more < 0 ? used : used + (size_t)more;
}

const char *ingot_value_place(const ingot_value *v)
{
  static _Thread_local char text[768];
  char                      path[384] = "";
  path_text(v, path, sizeof path);
  const char *colon = path[0] ? ": " : "";
  if (v->line > 0) snprintf(text, sizeof text, "%s:%d%s%s", v->file, v->line, colon, path);
  else if (v->parent) snprintf(text, sizeof text, "--set%s%s", colon, path);
  else snprintf(text, sizeof text, "%s", v->file);
  return text;
}

static ingot_value *value_new(ingot_arena *arena, ingot_value_kind kind, const char *name, const char *file, int line)
{
  ingot_value *v = ingot_arena_alloc(arena, 1, sizeof *v);
  if (!v) return NULL;
  v->kind = kind;
  v->file = file;
  v->line = line;
  if (name && !(v->name = ingot_arena_strdup(arena, name))) return NULL;
  return v;
}

static ingot_status value_append(ingot_arena *arena, ingot_value *parent, ingot_value *child)
{
  ingot_status st = INGOT_OK;
  if (parent->n_item == parent->capacity) {
    int           capacity = parent->capacity ? 2 * parent->capacity : 4;
    ingot_value **item = ingot_arena_alloc(arena, (size_t)capacity, sizeof *item);
    INGOT_TRY_ALLOC(item);
    if (parent->n_item) memcpy(item, parent->item, (size_t)parent->n_item * sizeof(ingot_value *));
    parent->item = item;
    parent->capacity = capacity;
  }
  parent->item[parent->n_item++] = child;
  child->parent = parent;
done:
  return st;
}

/* Copy a setting with all below it; libconfig's own limit on nesting bounds the recursion. */
static ingot_status convert(const config_setting_t *setting, const char *main_file, ingot_arena *arena,
                            ingot_value **out)
{
  ingot_status st = INGOT_OK;
  const char  *file = main_file;
  if (config_setting_source_file(setting)) {
    file = ingot_arena_strdup(arena, config_setting_source_file(setting));
    INGOT_TRY_ALLOC(file);
  }
  ingot_value *v =
      value_new(arena, INGOT_VALUE_INT, config_setting_name(setting), file, (int)config_setting_source_line(setting));
  INGOT_TRY_ALLOC(v);
  switch (config_setting_type(setting)) {
  case CONFIG_TYPE_INT:
  case CONFIG_TYPE_INT64:
    v->integer = config_setting_get_int64(setting);
    if (config_setting_type(setting) == CONFIG_TYPE_INT) v->integer = config_setting_get_int(setting);
    v->real = (double)v->integer;
    break;
  case CONFIG_TYPE_FLOAT:
    v->kind = INGOT_VALUE_REAL;
    v->real = config_setting_get_float(setting);
    break;
  case CONFIG_TYPE_BOOL:
    v->kind = INGOT_VALUE_BOOL;
    v->boolean = config_setting_get_bool(setting) != 0;
    break;
  case CONFIG_TYPE_STRING:
    v->kind = INGOT_VALUE_STRING;
    v->string = ingot_arena_strdup(arena, config_setting_get_string(setting) ? config_setting_get_string(setting) : "");
    INGOT_TRY_ALLOC(v->string);
    break;
  default:
    v->kind = config_setting_is_group(setting) ? INGOT_VALUE_GROUP : INGOT_VALUE_LIST;
    for (int i = 0; i < config_setting_length(setting); i++) {
      ingot_value *child = NULL;
      INGOT_TRY(convert(config_setting_get_elem(setting, (unsigned)i), main_file, arena, &child));
      INGOT_TRY(value_append(arena, v, child));
    }
  }
  *out = v;
done:
  return st;
}

/* Read a whole regular file into memory, text only: libconfig itself ends the process on a read error. */
static ingot_status read_text(const char *path, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  FILE        *f = NULL;
  struct stat  info;
  INGOT_CHECK(stat(path, &info) == 0, INGOT_ERR_JOB, "%s: cannot read the file: no such file", path);
  INGOT_CHECK(S_ISREG(info.st_mode), INGOT_ERR_JOB, "%s: not a file", path);
  INGOT_CHECK(info.st_size <= JOB_FILE_MAX, INGOT_ERR_JOB, "%s: %lld bytes; a job file has at most %d", path,
              (long long)info.st_size, JOB_FILE_MAX);
  f = fopen(path, "rb");
  INGOT_CHECK(f, INGOT_ERR_JOB, "%s: cannot read the file", path);
  char   chunk[8192];
  size_t got;
  while ((got = fread(chunk, 1, sizeof chunk, f)) > 0) INGOT_TRY(ingot_text_append(text, chunk, got));
  INGOT_CHECK(!ferror(f), INGOT_ERR_JOB, "%s: reading failed", path);
  INGOT_CHECK(text->size == strlen(ingot_text_string(text)), INGOT_ERR_JOB, "%s: a zero byte in the file; not text",
              path);
  INGOT_CHECK(strncmp(ingot_text_string(text), "\xef\xbb\xbf", 3) != 0, INGOT_ERR_JOB,
              "%s: begins with a byte order mark; save it as UTF-8 without one", path);
done:
  if (f) fclose(f);
  return st;
}

/*
 * A number at p: *end is behind it. Whole numbers have 32 bits, or 64 with an L behind them, as libconfig has it;
 * libconfig itself cuts those that do not fit to other numbers without a word.
 */
static ingot_status check_number(const char *p, bool negative, const char *name, int line, const char **end)
{
  ingot_status       st = INGOT_OK;
  bool               hex = p[0] == '0' && (p[1] == 'x' || p[1] == 'X');
  char              *behind = NULL;
  unsigned long long value;
  errno = 0;
  value = strtoull(p, &behind, hex ? 16 : 10);
  bool               fits = errno == 0, wide = *behind == 'L';
  unsigned long long most = wide ? INT64_MAX : INT32_MAX;
  if (!hex && behind[0] != '\0' && strchr(".eE", behind[0])) strtod(p, &behind);
  else
    INGOT_CHECK(fits && value <= most + (negative && !hex), INGOT_ERR_JOB,
                "%s:%d: the whole number %s%.*s has more than %s", name, line, negative ? "-" : "", (int)(behind - p),
                p, wide ? "64 bits" : "32 bits: it needs an L behind it");
  *end = behind;
done:
  return st;
}

/* Every number of the text; strings, comments and names are passed over. */
static ingot_status check_numbers(const char *text, const char *name)
{
  ingot_status st = INGOT_OK;
  int          line = 1;
  for (const char *p = text; *p;) {
    const char *from = p;
    if (*p == '#' || (p[0] == '/' && p[1] == '/')) p += strcspn(p, "\n");
    else if (p[0] == '/' && p[1] == '*') p = strstr(p + 2, "*/") ? strstr(p + 2, "*/") + 2 : p + strlen(p);
    else if (*p == '"') {
      for (p++; *p && *p != '"'; p++)
        if (*p == '\\' && p[1]) p++;
      if (*p) p++;
    } else if (isalpha((unsigned char)*p) || *p == '*') {
      while (isalnum((unsigned char)*p) || (*p && strchr("_-*", *p))) p++;
    } else if (isdigit((unsigned char)*p) || (*p == '.' && isdigit((unsigned char)p[1]))) {
      INGOT_TRY(check_number(p, p > text && p[-1] == '-', name, line, &p));
    } else p++;
    for (; from < p; from++) line += *from == '\n';
  }
done:
  return st;
}

/* Look at every @include before libconfig does, which would end the process on a directory and recurse without
 * bound. */
static ingot_status check_includes(const char *text, const char *name, const char *include_dir, int depth)
{
  ingot_status st = INGOT_OK;
  ingot_text   path = {0}, below = {0};
  int          line = 0;
  for (const char *at = text; at && *at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL) {
    line++;
    const char *p = at + strspn(at, " \t");
    if (strncmp(p, "@include", 8) != 0) continue;
    p += 8 + strspn(p + 8, " \t");
    size_t length = *p == '"' ? strcspn(p + 1, "\"\n") : 0;
    if (*p != '"' || p[1 + length] != '"') continue; /* a syntax error, which libconfig reports */
    INGOT_CHECK(include_dir, INGOT_ERR_JOB, "%s:%d: @include is not possible here", name, line);
    INGOT_CHECK(depth < INCLUDE_DEPTH_MAX, INGOT_ERR_JOB, "%s:%d: @include is nested more than %d deep", name, line,
                INCLUDE_DEPTH_MAX);
    path.size = 0;
    below.size = 0;
    INGOT_TRY(p[1] == '/' ? ingot_text_printf(&path, "%.*s", (int)length, p + 1)
                          : ingot_text_printf(&path, "%s/%.*s", include_dir, (int)length, p + 1));
    st = ingot_wrap(read_text(ingot_text_string(&path), &below), "%s:%d: @include", name, line);
    if (st != INGOT_OK) goto done;
    INGOT_TRY(check_numbers(ingot_text_string(&below), ingot_text_string(&path)));
    INGOT_TRY(check_includes(ingot_text_string(&below), ingot_text_string(&path), include_dir, depth + 1));
  }
done:
  ingot_text_release(&path);
  ingot_text_release(&below);
  return st;
}

ingot_status ingot_value_parse(const char *text, size_t size, const char *name, const char *include_dir,
                               ingot_arena *arena, ingot_value **root)
{
  ingot_status st = INGOT_OK;
  config_t     config;
  config_init(&config);
  char *copy = ingot_arena_copy(arena, text, size); /* with a 0 behind */
  INGOT_TRY_ALLOC(copy);
  char *file = ingot_arena_strdup(arena, name);
  INGOT_TRY_ALLOC(file);
  INGOT_TRY(check_includes(copy, name, include_dir, 0));
  if (include_dir) config_set_include_dir(&config, include_dir);
  if (config_read_string(&config, copy) != CONFIG_TRUE) {
    const char *in = config_error_file(&config) ? config_error_file(&config) : name;
    st = ingot_fail(INGOT_ERR_JOB, "%s:%d: %s", in, config_error_line(&config),
                    config_error_text(&config) ? config_error_text(&config) : "syntax error");
    goto done;
  }
  INGOT_TRY(check_numbers(copy, name));
  INGOT_TRY(convert(config_root_setting(&config), file, arena, root));
  (*root)->file = file;
done:
  config_destroy(&config);
  return st;
}

ingot_status ingot_value_read(const char *path, ingot_arena *arena, ingot_value **root, const char **text_out)
{
  ingot_status st = INGOT_OK;
  ingot_text   text = {0}, directory = {0};
  const char  *slash = strrchr(path, '/');
  INGOT_TRY(slash ? ingot_text_append(&directory, path, slash == path ? 1 : (size_t)(slash - path))
                  : ingot_text_printf(&directory, "."));
  INGOT_TRY(read_text(path, &text));
  INGOT_TRY(ingot_value_parse(ingot_text_string(&text), text.size, path, ingot_text_string(&directory), arena, root));
  if (text_out) {
    *text_out = ingot_arena_copy(arena, ingot_text_string(&text), text.size);
    INGOT_TRY_ALLOC(*text_out);
  }
done:
  ingot_text_release(&text);
  ingot_text_release(&directory);
  return st;
}

/* One step of a --set path: "name" or "[3]". Advances *at; returns false at anything else. */
static bool path_step(const char **at, char name[128], int64_t *index)
{
  const char *p = *at;
  *index = -1;
  name[0] = '\0';
  if (*p == '[') {
    char *end = NULL;
    if (!isdigit((unsigned char)p[1])) return false;
    *index = strtoll(p + 1, &end, 10);
    if (*end != ']' || *index >= LIST_MAX) return false;
    p = end + 1;
  } else {
    size_t length = 0;
    while (isalnum((unsigned char)p[length]) || (p[length] && strchr("_-*", p[length]))) length++;
    if (length == 0 || length >= 128) return false;
    memcpy(name, p, length);
    name[length] = '\0';
    p += length;
  }
  if (*p == '.') {
    p++;
    if (*p == '\0' || *p == '[') return false;
  } else if (*p != '\0' && *p != '[') {
    return false;
  }
  *at = p;
  return true;
}

/* Put v where the path says, making groups on the way; v replaces what is there. */
static ingot_status put_at(ingot_value *root, const char *path, ingot_value *v, ingot_arena *arena)
{
  ingot_status st = INGOT_OK;
  ingot_value *at = root;
  const char  *rest = path;
  do {
    char    name[128];
    int64_t index;
    INGOT_CHECK(path_step(&rest, name, &index), INGOT_ERR_USAGE,
                "--set: \"%s\" is not a path such as steps[0].parameters.lambda", path);
    bool last = *rest == '\0';
    int  found = -1;
    if (index >= 0) {
      INGOT_CHECK(at->kind == INGOT_VALUE_LIST, INGOT_ERR_USAGE, "--set: \"%s\": [%lld] follows what is not a list",
                  path, (long long)index);
      INGOT_CHECK(index < at->n_item, INGOT_ERR_USAGE, "--set: \"%s\": no element [%lld] in a list of %d", path,
                  (long long)index, at->n_item);
      found = (int)index;
    } else {
      INGOT_CHECK(at->kind == INGOT_VALUE_GROUP, INGOT_ERR_USAGE, "--set: \"%s\": %s follows what is not a group", path,
                  name);
      for (int i = 0; i < at->n_item; i++)
        if (strcmp(at->item[i]->name, name) == 0) found = i;
    }
    ingot_value *child = found >= 0 ? at->item[found] : NULL;
    if (last) {
      v->name = NULL;
      if (index < 0) {
        v->name = ingot_arena_strdup(arena, name);
        INGOT_TRY_ALLOC(v->name);
      }
      v->parent = at;
      if (child) at->item[found] = v;
      else INGOT_TRY(value_append(arena, at, v));
    } else if (!child) {
      child = value_new(arena, INGOT_VALUE_GROUP, name, root->file, 0);
      INGOT_TRY_ALLOC(child);
      INGOT_TRY(value_append(arena, at, child));
    }
    at = child;
  } while (*rest);
done:
  return st;
}

static void clear_lines(ingot_value *v)
{
  v->line = 0;
  for (int i = 0; i < v->n_item; i++) clear_lines(v->item[i]);
}

ingot_status ingot_value_set(ingot_value *root, const char *assignment, ingot_arena *arena)
{
  ingot_status st = INGOT_OK;
  ingot_text   text = {0}, path = {0};
  ingot_value *parsed = NULL;
  const char  *equals = strchr(assignment, '=');
  INGOT_CHECK(equals && equals != assignment, INGOT_ERR_USAGE, "--set: \"%s\" is not key=value", assignment);
  INGOT_TRY(ingot_text_append(&path, assignment, (size_t)(equals - assignment)));
  INGOT_TRY(ingot_text_printf(&text, "value = %s;", equals + 1));
  INGOT_TRY(check_numbers(equals + 1, "--set"));
  st = ingot_value_parse(ingot_text_string(&text), text.size, "--set", NULL, arena, &parsed);
  if (st == INGOT_ERR_NOMEM) goto done;
  INGOT_CHECK(st == INGOT_OK && parsed->n_item == 1, INGOT_ERR_USAGE,
              "--set: \"%s\": the value is not one in job-file syntax (a string needs its quotes: 'key=\"text\"')",
              assignment);
  clear_lines(parsed);
  INGOT_TRY(put_at(root, ingot_text_string(&path), parsed->item[0], arena));
done:
  ingot_text_release(&text);
  ingot_text_release(&path);
  return st;
}
