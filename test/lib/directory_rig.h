// A directory of a test's own, and what is done to files in it. Paths are relative to it unless said otherwise.

#ifndef BITFLOW_TEST_DIRECTORY_RIG_H
#define BITFLOW_TEST_DIRECTORY_RIG_H

#define TEXT_SIZE 512
extern char directory[TEXT_SIZE]; // its path, without links

int enter_directory(void **state);
int leave_directory(void **state);

// The whole path; the last eight are kept.
const char *in(const char *name);

// Writes a file, in place if it is there.
void put_file(const char *name, const char *text);
void move_file(const char *from, const char *to);
void link_to(const char *target, const char *name);
void make_directory(const char *name);

// `path` is a whole one.
void remove_all(const char *path);

#endif
