/* The beginning of a fault injection library for LD_PRELOAD. The faults are read from the file named by
   TEST_FAULTS: eight 64-bit integers in native byte order, whose meaning the library defines. See
   faults.rs. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile int64_t nothing[8], *faults = nothing;

__attribute__((constructor)) static void map_faults(void) {
    const char *path = getenv("TEST_FAULTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *mapped = mmap(NULL, sizeof nothing, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED)
        faults = mapped;
    close(fd);
}

/* Returns 1 and sets errno if this call must fail. */
static int must_fail(int number, int times) {
    if (faults[times] <= 0)
        return 0;
    faults[times]--;
    errno = (int)faults[number];
    return 1;
}
