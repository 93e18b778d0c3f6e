/* Preloaded into a process, it moves the wall clock by the number of nanoseconds in a shared file,
 * so that a test can let the clock jump without touching the machine's. Waits until a moment of the
 * wall clock are translated back, for the kernel does not know of the jump. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *offset_ns;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("CLOCK_OFFSET_FILE");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    if (file < 0) return;
    void *page = mmap(NULL, sizeof(long long), PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) offset_ns = page;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (!real_clock_gettime) real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real_clock_gettime(clock, time);
    if (result == 0 && offset_ns && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        long long total = time->tv_sec * 1000000000LL + time->tv_nsec + *offset_ns;
        time->tv_sec = total / 1000000000LL;
        time->tv_nsec = total % 1000000000LL;
    }
    return result;
}

int gettimeofday(struct timeval *time, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}

/* A moment of the moved clock as the kernel knows it; those of the monotonic clock are small. */
static struct timespec back(const struct timespec *moment) {
    struct timespec result = *moment;
    if (offset_ns && moment->tv_sec > 1000000000LL) {
        long long total = moment->tv_sec * 1000000000LL + moment->tv_nsec - *offset_ns;
        result.tv_sec = total / 1000000000LL;
        result.tv_nsec = total % 1000000000LL;
    }
    return result;
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex,
                           const struct timespec *moment) {
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    struct timespec there = back(moment);
    if (!real) real = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!real) real = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    return real(condition, mutex, &there);
}

int sem_timedwait(sem_t *semaphore, const struct timespec *moment) {
    static int (*real)(sem_t *, const struct timespec *);
    struct timespec there = back(moment);
    if (!real) real = dlsym(RTLD_NEXT, "sem_timedwait");
    return real(semaphore, &there);
}

int pthread_mutex_timedlock(pthread_mutex_t *mutex, const struct timespec *moment) {
    static int (*real)(pthread_mutex_t *, const struct timespec *);
    struct timespec there = back(moment);
    if (!real) real = dlsym(RTLD_NEXT, "pthread_mutex_timedlock");
    return real(mutex, &there);
}
