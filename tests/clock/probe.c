/*
 * What a program sees of the clocks, told to a test: the C library's answer, which `clock.c` replaces, between two answers of the kernel
 * itself, which it cannot. One line of output for each line of input, so that the test decides when.
 *
 *   clocks   per line: for each clock "kernel shown kernel", then CLOCK_MONOTONIC by the kernel before and after it all [ns]
 *   shown    per line "clock real": what the preloaded library makes of it [ns]
 *   whole    per line "count real": how many of `count` answers were not `real`, for a clock that is always told to show that
 *   timex    per line: state, status, maxerror and esterror [us], the time [ns], and the error of an attempt to set the clock
 *   cost     per line "count": what one call of clock_gettime costs [ps]
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

static int64_t ns_of(struct timespec time) { return time.tv_sec * INT64_C(1000000000) + time.tv_nsec; }

static int64_t kernel_ns(clockid_t id) {
  struct timespec time = {0};
  syscall(SYS_clock_gettime, id, &time);
  return ns_of(time);
}

static int64_t shown_ns(clockid_t id) {
  struct timespec time = {0};
  clock_gettime(id, &time);
  return ns_of(time);
}

static void clocks(void) {
  static const clockid_t ids[] = {CLOCK_REALTIME,  CLOCK_REALTIME_COARSE,  CLOCK_MONOTONIC,
                                  CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME};
  int64_t before = kernel_ns(CLOCK_MONOTONIC);
  for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
    int64_t first = kernel_ns(ids[i]), shown = shown_ns(ids[i]), last = kernel_ns(ids[i]);
    printf("%" PRId64 " %" PRId64 " %" PRId64 " ", first, shown, last);
  }
  int64_t first = kernel_ns(CLOCK_REALTIME);
  struct timeval micros;
  gettimeofday(&micros, NULL);
  int64_t last = kernel_ns(CLOCK_REALTIME);
  printf("%" PRId64 " %" PRId64 " %" PRId64 " ", first, micros.tv_sec * INT64_C(1000000000) + micros.tv_usec * 1000, last);
  first = kernel_ns(CLOCK_REALTIME_COARSE);
  int64_t seconds = time(NULL);
  last = kernel_ns(CLOCK_REALTIME_COARSE);
  printf("%" PRId64 " %" PRId64 " %" PRId64 " ", first, seconds * INT64_C(1000000000), last);
  printf("%" PRId64 " %" PRId64 "\n", before, kernel_ns(CLOCK_MONOTONIC));
}

static void shown(const char *line) {
  int64_t (*arithmetic)(int, int64_t) = (int64_t(*)(int, int64_t))dlsym(RTLD_DEFAULT, "lagmesh_clock_shown");
  int clock;
  int64_t real_ns;
  if (arithmetic == NULL || sscanf(line, "%d %" SCNd64, &clock, &real_ns) != 2) printf("not preloaded, or no such line\n");
  else printf("%" PRId64 "\n", arithmetic(clock, real_ns));
}

static void whole(const char *line) {
  int64_t (*arithmetic)(int, int64_t) = (int64_t(*)(int, int64_t))dlsym(RTLD_DEFAULT, "lagmesh_clock_shown");
  int64_t count, real_ns, wrong = 0;
  if (arithmetic == NULL || sscanf(line, "%" SCNd64 " %" SCNd64, &count, &real_ns) != 2) count = 0, wrong = -1;
  while (count-- > 0) wrong += arithmetic(0, real_ns) != real_ns;
  printf("%" PRId64 "\n", wrong);
}

static void timex(void) {
  struct timex about = {0}, set = {.modes = ADJ_MAXERROR, .maxerror = 1};
  int state = adjtimex(&about);
  int64_t unit_ns = about.status & STA_NANO ? 1 : 1000;
  int set_error = ntp_adjtime(&set) < 0 ? errno : 0;
  printf("%d %d %ld %ld %" PRId64 " %d\n", state, about.status & (STA_UNSYNC | STA_PLL), about.maxerror, about.esterror,
         about.time.tv_sec * INT64_C(1000000000) + about.time.tv_usec * unit_ns, set_error);
}

static void cost(const char *line) {
  int64_t count = 1, first = kernel_ns(CLOCK_MONOTONIC);
  sscanf(line, "%" SCNd64, &count);
  struct timespec time;
  for (int64_t i = 0; i < count; i++) clock_gettime(CLOCK_REALTIME, &time);
  printf("%" PRId64 "\n", (kernel_ns(CLOCK_MONOTONIC) - first) * 1000 / count);
}

int main(int count, char **arguments) {
  char line[128];
  const char *what = count > 1 ? arguments[1] : "";
  setvbuf(stdout, NULL, _IOLBF, 0);
  while (fgets(line, sizeof line, stdin)) {
    if (strcmp(what, "clocks") == 0) clocks();
    else if (strcmp(what, "shown") == 0) shown(line);
    else if (strcmp(what, "whole") == 0) whole(line);
    else if (strcmp(what, "timex") == 0) timex();
    else if (strcmp(what, "cost") == 0) cost(line);
    else return 64;
  }
  return 0;
}
