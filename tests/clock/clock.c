/*
 * The clocks of one host of the testbed, for the programs that run on it: a wall clock that is off and can be stepped, and a drift of
 * all clocks. Preloaded (LD_PRELOAD) into each of them; told what to show by a small file (LAGMESH_CLOCK_FILE) that the testbed writes
 * and every program maps. Without the variable, or if the file cannot be used, it passes everything through.
 *
 * Each clock shows  real + offset + floor((real - anchor) * rate / 10^9),  where "real" is what the kernel shows the program (a time
 * namespace, if there is one, is already in it). Of several such pieces each holds from its anchor on. The file therefore carries a
 * change that is still to come, and all programs see it at one and the same moment; and what is a little old when it is read, a coarse
 * clock or the stamp of a packet that waited, is still shown by the piece of its time.
 *
 * Kernel stamps of packets (receive and transmit) are moved like the wall clock, because on a real host the kernel stamps its own.
 * A flag leaves them on the true clock: what a half-faked host looks like.
 *
 * Not changed, on purpose:
 * - Absolute deadlines (clock_nanosleep with TIMER_ABSTIME, absolute timerfds, futexes). On the monotonic and boot clocks such a sleep
 *   is off by the drift times the run time (50 ppm for 10 minutes: 30 ms). On the wall clock it would be off by the whole offset:
 *   neither PostgreSQL nor a lagmesh agent has deadlines there.
 * - CLOCK_TAI, the clocks of processes and threads, times of files, SIOCGSTAMP, hardware stamps, io_uring.
 * - Programs that do not call the C library for the time: raw system calls, Go.
 *
 * Safe in signal handlers and after fork: no function here takes a lock or memory once the constructor is done.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S INT64_C(1000000000)

/* The layout of the file; `clocks/control.rs` writes it. */
enum { WALL, MONOTONIC, RAW, BOOT, CLOCKS, NOT_OURS = -1 };
enum { PIECES = 4 };
enum { STAMPS_TRUE = 1, SYNCHRONISED = 2 };
struct piece {
  int64_t anchor_ns, offset_ns, rate_ppb;
};
struct state {
  struct piece clocks[CLOCKS][PIECES];
  uint64_t flags;
  int64_t max_error_us;
};
struct control {
  char magic[8];
  uint32_t version, size;
  /* States are written in turn: this one's lowest bit says which is whole. A reader never waits for a writer that was interrupted. */
  uint64_t sequence;
  struct state states[2];
};
_Static_assert(sizeof(long) == 8 && sizeof(struct control) == 24 + 2 * 400, "the layout that the testbed writes");

static const struct control *control;
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static ssize_t (*real_recvmsg)(int, struct msghdr *, int);
static int (*real_recvmmsg)(int, struct mmsghdr *, unsigned, int, struct timespec *);

static void complain(const char *what) {
  static const char name[] = "lagmesh clock: the true clocks show: ";
  ssize_t ignored = write(STDERR_FILENO, name, sizeof name - 1);
  ignored = write(STDERR_FILENO, what, strlen(what));
  ignored = write(STDERR_FILENO, "\n", 1);
  (void)ignored;
}

__attribute__((constructor(101))) static void start(void) {
  real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
  real_recvmsg = dlsym(RTLD_NEXT, "recvmsg");
  real_recvmmsg = dlsym(RTLD_NEXT, "recvmmsg");
  const char *path = getenv("LAGMESH_CLOCK_FILE");
  if (path == NULL) return;
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return complain("the file of LAGMESH_CLOCK_FILE cannot be opened");
  struct stat about;
  const struct control *mapped = MAP_FAILED;
  /* Beyond the end of a file that is too short lies a SIGBUS. */
  if (fstat(file, &about) == 0 && about.st_size >= (off_t)sizeof *mapped)
    mapped = mmap(NULL, sizeof *mapped, PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (mapped == MAP_FAILED) return complain("the file of LAGMESH_CLOCK_FILE is too short or cannot be mapped");
  if (memcmp(mapped->magic, "lagclock", 8) != 0 || mapped->version != 1 || mapped->size != sizeof *mapped)
    return complain("the file of LAGMESH_CLOCK_FILE has another format");
  control = mapped;
}

static int64_t floor_div(int64_t number, int64_t by) { return number / by - (number % by < 0); }

/* What a clock shows by one piece. Both ways of dividing round down; the short one does for months at 50 ppm. */
static int64_t shown_by(const struct piece *piece, int64_t real_ns) {
  int64_t product, since_ns = real_ns - piece->anchor_ns;
  if (!__builtin_mul_overflow(since_ns, piece->rate_ppb, &product))
    return real_ns + piece->offset_ns + floor_div(product, NS_PER_S);
  __int128 wide = (__int128)since_ns * piece->rate_ppb;
  return real_ns + piece->offset_ns + (int64_t)(wide / NS_PER_S - (wide % NS_PER_S < 0));
}

/* Sets `result` from the state that is whole, which `expression` calls so. */
#define READ(result, expression)                                                   \
  do {                                                                             \
    uint64_t sequence;                                                             \
    do {                                                                           \
      sequence = __atomic_load_n(&control->sequence, __ATOMIC_ACQUIRE);            \
      const struct state *whole = &control->states[sequence & 1];                  \
      result = expression;                                                         \
      __atomic_thread_fence(__ATOMIC_ACQUIRE);                                     \
    } while (sequence != __atomic_load_n(&control->sequence, __ATOMIC_RELAXED));   \
  } while (0)

static const struct piece *piece_at(const struct piece *pieces, int64_t real_ns) {
  int newest = PIECES - 1;
  while (newest > 0 && real_ns < pieces[newest].anchor_ns) newest--;
  return &pieces[newest];
}

/* What one of the host's clocks shows when the kernel shows `real_ns`. Visible, so that its arithmetic can be tested. */
__attribute__((visibility("default"))) int64_t lagmesh_clock_shown(int clock, int64_t real_ns);
int64_t lagmesh_clock_shown(int clock, int64_t real_ns) {
  if (control == NULL) return real_ns;
  struct piece piece;
  READ(piece, *piece_at(whole->clocks[clock], real_ns));
  return shown_by(&piece, real_ns);
}

static int clock_of(clockid_t id) {
  switch (id) {
  case CLOCK_REALTIME: case CLOCK_REALTIME_COARSE: case CLOCK_REALTIME_ALARM: return WALL;
  case CLOCK_MONOTONIC: case CLOCK_MONOTONIC_COARSE: return MONOTONIC;
  case CLOCK_MONOTONIC_RAW: return RAW;
  case CLOCK_BOOTTIME: case CLOCK_BOOTTIME_ALARM: return BOOT;
  default: return NOT_OURS;
  }
}

int clock_gettime(clockid_t id, struct timespec *time) {
  /* Constructors of other libraries may ask before ours ran. */
  int failed = real_clock_gettime ? real_clock_gettime(id, time) : (int)syscall(SYS_clock_gettime, id, time);
  int clock = clock_of(id);
  if (failed || clock == NOT_OURS || control == NULL) return failed;
  int64_t shown_ns = lagmesh_clock_shown(clock, time->tv_sec * NS_PER_S + time->tv_nsec);
  time->tv_sec = floor_div(shown_ns, NS_PER_S);
  time->tv_nsec = shown_ns - time->tv_sec * NS_PER_S;
  return 0;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
  struct timespec now;
  if (zone != NULL) memset(zone, 0, sizeof(struct timezone));
  if (clock_gettime(CLOCK_REALTIME, &now) != 0) return -1;
  time->tv_sec = now.tv_sec;
  time->tv_usec = now.tv_nsec / 1000;
  return 0;
}

/* The kernel's own answer to time() is the coarse clock, too. */
time_t time(time_t *result) {
  struct timespec now;
  if (clock_gettime(CLOCK_REALTIME_COARSE, &now) != 0) return -1;
  if (result != NULL) *result = now.tv_sec;
  return now.tv_sec;
}

int timespec_get(struct timespec *time, int base) {
  return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, time) == 0 ? base : 0;
}

/* A stamp of zeros is no stamp. `per_second` tells a timespec from a timeval: a control message is aligned for neither in C's eyes. */
static void move_stamp(unsigned char *at, int64_t per_second) {
  int64_t parts[2];
  memcpy(parts, at, sizeof parts);
  if (parts[0] == 0 && parts[1] == 0) return;
  int64_t unit_ns = NS_PER_S / per_second;
  int64_t shown_ns = lagmesh_clock_shown(WALL, parts[0] * NS_PER_S + parts[1] * unit_ns);
  parts[0] = floor_div(shown_ns, NS_PER_S);
  parts[1] = (shown_ns - parts[0] * NS_PER_S) / unit_ns;
  memcpy(at, parts, sizeof parts);
}

static int stamps_move(void) {
  if (control == NULL) return 0;
  uint64_t flags;
  READ(flags, whole->flags);
  return !(flags & STAMPS_TRUE);
}

/* Control messages that the kernel had to cut (MSG_CTRUNC) say a length that their buffer does not have. */
static void move_stamps(struct msghdr *message) {
  const size_t head = CMSG_LEN(0);
  unsigned char *end = (unsigned char *)message->msg_control + message->msg_controllen;
  for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_len < head + 16) continue;
    if (CMSG_DATA(part) + 16 > end) continue;
    switch (part->cmsg_type) {
    case SO_TIMESTAMP_OLD: case SO_TIMESTAMP_NEW: move_stamp(CMSG_DATA(part), 1000000); break;
    /* Of the three stamps of SCM_TIMESTAMPING the first is the kernel's; the third is on the clock of the network card. */
    case SO_TIMESTAMPNS_OLD: case SO_TIMESTAMPNS_NEW: case SO_TIMESTAMPING_OLD: case SO_TIMESTAMPING_NEW:
      move_stamp(CMSG_DATA(part), NS_PER_S);
      break;
    }
  }
}

ssize_t recvmsg(int socket, struct msghdr *message, int flags) {
  ssize_t received = real_recvmsg ? real_recvmsg(socket, message, flags) : syscall(SYS_recvmsg, socket, message, flags);
  if (received >= 0 && message->msg_controllen > 0 && stamps_move()) move_stamps(message);
  return received;
}

int recvmmsg(int socket, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout) {
  int received = real_recvmmsg ? real_recvmmsg(socket, messages, count, flags, timeout)
                               : (int)syscall(SYS_recvmmsg, socket, messages, count, flags, timeout);
  if (received > 0 && stamps_move())
    for (int i = 0; i < received; i++)
      if (messages[i].msg_hdr.msg_controllen > 0) move_stamps(&messages[i].msg_hdr);
  return received;
}

/* What the host claims about its wall clock. Nobody on a host of the testbed may turn the machine's real clock. */
int clock_adjtime(clockid_t id, struct timex *about) {
  if (control == NULL) return (int)syscall(SYS_clock_adjtime, id, about);
  if (about->modes != 0 && about->modes != ADJ_OFFSET_SS_READ) {
    errno = EPERM;
    return -1;
  }
  int clock_state = (int)syscall(SYS_clock_adjtime, id, about);
  if (clock_state < 0 || id != CLOCK_REALTIME) return clock_state;
  struct state claim;
  READ(claim, *whole);
  int synchronised = (claim.flags & SYNCHRONISED) != 0;
  int64_t unit_ns = about->status & STA_NANO ? 1 : 1000;
  int64_t shown_ns = lagmesh_clock_shown(WALL, about->time.tv_sec * NS_PER_S + about->time.tv_usec * unit_ns);
  about->time.tv_sec = floor_div(shown_ns, NS_PER_S);
  about->time.tv_usec = (shown_ns - about->time.tv_sec * NS_PER_S) / unit_ns;
  about->status = (about->status & STA_NANO) | (synchronised ? STA_PLL : STA_UNSYNC);
  about->offset = 0;
  about->maxerror = about->esterror = claim.max_error_us;
  return synchronised ? TIME_OK : TIME_ERROR;
}

int adjtimex(struct timex *about) { return clock_adjtime(CLOCK_REALTIME, about); }

int ntp_adjtime(struct timex *about) { return clock_adjtime(CLOCK_REALTIME, about); }
