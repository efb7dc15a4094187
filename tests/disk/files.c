/*
 * What the disks of this folder have in common: which files are theirs, and the functions that they stand before. Put before each of them.
 *
 * A disk is the one below `folder`; without one it passes everything through. Files that only coordinate living processes (SQLite's
 * "-shm") are not watched. Not covered: mapped writes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *folder;
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);

static void find_real(void) {
  real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
  real_write = dlsym(RTLD_NEXT, "write");
  real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
  real_fsync = dlsym(RTLD_NEXT, "fsync");
  real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
}

static int is_ours(const char *path, size_t length) {
  size_t above = strlen(folder);
  return strncmp(path, folder, above) == 0 && path[above] == '/' && (length < 4 || strcmp(path + length - 4, "-shm") != 0);
}

static int watched(int fd, struct stat *file) {
  if (folder == NULL || fstat(fd, file) != 0 || !S_ISREG(file->st_mode)) return 0;
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return is_ours(path, (size_t)length);
}

/* Each disk has these three. */
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at);
int ftruncate64(int fd, off64_t size);
static int synced(int fd, int (*sync)(int));

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) { return pwrite64(fd, bytes, length, at); }

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int fsync(int fd) { return synced(fd, real_fsync); }

int fdatasync(int fd) { return synced(fd, real_fdatasync); }

