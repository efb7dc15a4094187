/*
 * A disk that is full or slow, for one program. Preloaded (LD_PRELOAD) and told by the environment: LAGMESH_DISK_FOLDER, below which
 * files are on this disk; LAGMESH_DISK_FILE, a file with the two numbers below, which may change at any time. Without these variables
 * it passes everything through.
 *
 * Room is taken when a file grows and given back when it shrinks or is removed, so what is written over what is there always fits, as on
 * a real disk; a write for which there is only some room is cut short. A sync takes its time before it happens. Not covered: files that
 * are replaced or opened anew to nothing, and what directories take.
 */

/* `disk/trouble.rs` knows the layout, writes the first two and reads the others. */
struct trouble {
  int64_t room_bytes;  /* what still fits; negative: everything */
  int64_t sync_ms;     /* how long a sync takes on top */
  int64_t syncs_begun; /* how many there were */
  int64_t syncs_done;
};

static struct trouble *trouble;
static int (*real_unlink)(const char *);

__attribute__((constructor)) static void start(void) {
  find_real();
  real_unlink = dlsym(RTLD_NEXT, "unlink");
  const char *told = getenv("LAGMESH_DISK_FILE"), *below = getenv("LAGMESH_DISK_FOLDER");
  int fd = below == NULL || told == NULL ? -1 : open(told, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  void *mapped = mmap(NULL, sizeof *trouble, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (mapped == MAP_FAILED) return;
  trouble = mapped;
  folder = below;
}

static void give_back(off_t bytes) {
  if (trouble->room_bytes >= 0 && bytes > 0) trouble->room_bytes += bytes;
}

/* Called with the lock: how much of `length` bytes at `at` fits, after its room was taken. */
static size_t fits(const struct stat *file, off_t at, size_t length) {
  off_t grows = at + (off_t)length - file->st_size;
  if (grows <= 0 || trouble->room_bytes < 0) return length;
  off_t lacks = grows > trouble->room_bytes ? grows - trouble->room_bytes : 0;
  if (lacks > (off_t)length) lacks = (off_t)length;
  trouble->room_bytes -= grows - lacks;
  return length - (size_t)lacks;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
  struct stat file;
  if (!watched(fd, &file)) return real_pwrite(fd, bytes, length, at);
  pthread_mutex_lock(&lock);
  size_t some = fstat(fd, &file) == 0 ? fits(&file, at, length) : length;
  ssize_t written = some > 0 || length == 0 ? real_pwrite(fd, bytes, some, at) : -1;
  pthread_mutex_unlock(&lock);
  if (some == 0 && length > 0) errno = ENOSPC;
  return written;
}

ssize_t write(int fd, const void *bytes, size_t length) {
  struct stat file;
  if (!watched(fd, &file)) return real_write(fd, bytes, length);
  pthread_mutex_lock(&lock);
  size_t some = fstat(fd, &file) == 0 ? fits(&file, lseek(fd, 0, SEEK_CUR), length) : length;
  ssize_t written = some > 0 || length == 0 ? real_write(fd, bytes, some) : -1;
  pthread_mutex_unlock(&lock);
  if (some == 0 && length > 0) errno = ENOSPC;
  return written;
}

int ftruncate64(int fd, off64_t size) {
  struct stat file;
  if (!watched(fd, &file)) return real_ftruncate(fd, size);
  pthread_mutex_lock(&lock);
  int result = real_ftruncate(fd, size);
  if (result == 0) give_back(file.st_size - size);
  pthread_mutex_unlock(&lock);
  return result;
}

int unlink(const char *path) {
  struct stat file;
  int ours = folder != NULL && is_ours(path, strlen(path)) && stat(path, &file) == 0;
  int result = real_unlink(path);
  if (result == 0 && ours) {
    pthread_mutex_lock(&lock);
    give_back(file.st_size);
    pthread_mutex_unlock(&lock);
  }
  return result;
}

static int synced(int fd, int (*sync)(int)) {
  struct stat file;
  if (!watched(fd, &file)) return sync(fd);
  __atomic_add_fetch(&trouble->syncs_begun, 1, __ATOMIC_SEQ_CST);
  struct timespec wait = {trouble->sync_ms / 1000, trouble->sync_ms % 1000 * 1000000};
  nanosleep(&wait, NULL);
  int result = sync(fd);
  __atomic_add_fetch(&trouble->syncs_done, 1, __ATOMIC_SEQ_CST);
  return result;
}
