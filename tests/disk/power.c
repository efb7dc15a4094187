/*
 * A disk that loses power, for one program: what it wrote and did not yet sync is thrown away, and the program is gone. Preloaded
 * (LD_PRELOAD) and told by the environment: LAGMESH_POWER_FOLDER, below which files are watched; LAGMESH_POWER_WRITES, the number of the
 * write before which the power goes; LAGMESH_POWER_SEED, if only some of what was not synced is to be lost, as a disk that writes in an
 * order of its own would. Without these variables it passes everything through.
 *
 * Before each write the old content of its place is kept; fsync and fdatasync forget what was kept of their file. Not covered: renames
 * and removals, and directories.
 */

struct undo {
  struct undo *before;
  int fd;
  dev_t device;
  ino_t inode;
  off_t at, old_size;
  size_t length, kept;
  char old[];
};

static struct undo *newest;
static long writes_left = -1;
static uint64_t seed;

__attribute__((constructor)) static void start(void) {
  find_real();
  const char *writes = getenv("LAGMESH_POWER_WRITES"), *some = getenv("LAGMESH_POWER_SEED");
  folder = getenv("LAGMESH_POWER_FOLDER");
  if (folder != NULL && writes != NULL) writes_left = atol(writes);
  if (some != NULL) seed = strtoull(some, NULL, 10);
}

static int coin(void) {
  if (seed == 0) return 1;
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return seed & 1;
}

/* Called with the lock, which is never let go again: nothing is written any more. */
static void lose_power(void) {
  int all = seed == 0;
  for (struct undo *one = newest; one != NULL; one = one->before) {
    if (!coin()) continue;
    if (one->kept > 0) real_pwrite(one->fd, one->old, one->kept, one->at);
    if (all) {
      real_ftruncate(one->fd, one->old_size);
    } else if (one->length > one->kept) {
      /* The file had grown, but what it grew by never came. */
      char *nothing = calloc(1, one->length - one->kept);
      if (nothing != NULL) real_pwrite(one->fd, nothing, one->length - one->kept, one->at + (off_t)one->kept);
    }
  }
  syscall(SYS_exit_group, 137);
}

/* Called with the lock, before `length` bytes at `at` change. */
static void keep(int fd, const struct stat *file, off_t at, size_t length) {
  if (writes_left > 0 && --writes_left == 0) lose_power();
  struct undo *one = malloc(sizeof *one + length);
  int own = dup(fd);
  if (one == NULL || own < 0) abort();
  ssize_t kept = pread(fd, one->old, length, at);
  *one = (struct undo){newest, own, file->st_dev, file->st_ino, at, file->st_size, length, kept > 0 ? (size_t)kept : 0};
  newest = one;
}

static void forget(const struct stat *file) {
  struct undo **place = &newest;
  while (*place != NULL) {
    struct undo *one = *place;
    if (one->device == file->st_dev && one->inode == file->st_ino) {
      *place = one->before;
      close(one->fd);
      free(one);
    } else {
      place = &one->before;
    }
  }
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
  struct stat file;
  if (!watched(fd, &file)) return real_pwrite(fd, bytes, length, at);
  pthread_mutex_lock(&lock);
  keep(fd, &file, at, length);
  ssize_t written = real_pwrite(fd, bytes, length, at);
  pthread_mutex_unlock(&lock);
  return written;
}

ssize_t write(int fd, const void *bytes, size_t length) {
  struct stat file;
  if (!watched(fd, &file)) return real_write(fd, bytes, length);
  pthread_mutex_lock(&lock);
  keep(fd, &file, lseek(fd, 0, SEEK_CUR), length);
  ssize_t written = real_write(fd, bytes, length);
  pthread_mutex_unlock(&lock);
  return written;
}

int ftruncate64(int fd, off64_t size) {
  struct stat file;
  if (!watched(fd, &file)) return real_ftruncate(fd, size);
  pthread_mutex_lock(&lock);
  keep(fd, &file, size, file.st_size > size ? (size_t)(file.st_size - size) : 0);
  int result = real_ftruncate(fd, size);
  pthread_mutex_unlock(&lock);
  return result;
}

static int synced(int fd, int (*sync)(int)) {
  struct stat file;
  if (!watched(fd, &file)) return sync(fd);
  pthread_mutex_lock(&lock);
  int result = sync(fd);
  if (result == 0) forget(&file);
  pthread_mutex_unlock(&lock);
  return result;
}
