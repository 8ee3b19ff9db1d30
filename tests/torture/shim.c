/* File operations below one folder: counted, failed, cut short, killed or recorded at will (LD_PRELOAD).
 *
 * Sees what Python, SQLite and NumPy call through the PLT, and stdio's fopen, fread, fwrite. Does not see what is
 * done through a memory map. `shim.py` says what the modes mean; one thread at a time.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING, KILL, FAIL_EIO, FAIL_ENOSPC, FULL, HALF, INTERRUPT, READ_EIO, RECORD };
enum { SPACE = 1, LONG = 2, DATA = 4 }; /* needs room on the disk; may be interrupted; may be done by half */
enum { CREATE = 'C', MAKE = 'D', WRITE = 'W', TRUNCATE = 'T', SYNC = 'S', RENAME = 'R', LINK = 'L', UNLINK = 'U', MARK = 'M' };

#define FDS 65536
static char folder[PATH_MAX];
static size_t folder_length;
static int mode, log_fd = -1;
static long target, writes, reads;
static unsigned char ours[FDS];

#define REAL(result, name, ...)                                                                                       \
    static result (*real)(__VA_ARGS__);                                                                               \
    if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* ---- what Python calls ---- */

void shim_arm(const char *path, long n, int what) {
    snprintf(folder, sizeof folder, "%s", path);
    folder_length = strlen(folder);
    target = n, writes = reads = 0, mode = what;
}

void shim_disarm(void) { mode = NOTHING, folder_length = 0; }
long shim_writes(void) { return writes; }
long shim_reads(void) { return reads; }

/* ---- which paths and files are ours ---- */

static int below(const char *path) {
    return folder_length && !strncmp(path, folder, folder_length) &&
           (path[folder_length] == 0 || path[folder_length] == '/');
}

static const char *absolute(int at, const char *path, char *space) {
    if (path[0] == '/') return path;
    char base[PATH_MAX], link[64];
    if (at == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    ssize_t length = readlink(link, base, sizeof base - 1);
    base[length < 0 ? 0 : length] = 0;
    if (snprintf(space, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) abort();
    return space;
}

static int is_ours(int fd) { return folder_length && fd >= 0 && fd < FDS && ours[fd]; }
static void set_ours(int fd, int yes) { if (fd >= 0 && fd < FDS) ours[fd] = yes; }

/* ---- the one gate ---- */

/* 0: go on; > 0: fail with this errno; -1: do half of it */
static int writing(int traits) {
    writes++;
    if (mode == FULL) return writes >= target && (traits & SPACE) ? ENOSPC : 0;
    if (writes != target) return 0;
    if (mode == KILL) raise(SIGKILL);
    if (mode == FAIL_EIO) return EIO;
    if (mode == FAIL_ENOSPC) return ENOSPC;
    if (mode == INTERRUPT && (traits & LONG)) return EINTR;
    if (mode == HALF && (traits & DATA)) return -1;
    return 0;
}

static int reading(void) {
    reads++;
    return mode == READ_EIO && reads == target ? EIO : 0;
}

#define FAIL_IF(problem)                                                                                              \
    do {                                                                                                              \
        int problem_ = (problem);                                                                                     \
        if (problem_ > 0) { errno = problem_; return -1; }                                                            \
    } while (0)

/* ---- the record ---- */

void shim_record(const char *path, const char *to) {
    log_fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    shim_arm(path, 0, RECORD);
}

struct entry { int64_t kind, inode, offset, first, second; };

static void note(int kind, uint64_t inode, int64_t offset, const void *first, size_t n, const void *second, size_t m) {
    if (mode != RECORD) return;
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    int before = errno;
    struct entry entry = {kind, (int64_t)inode, offset, (int64_t)n, (int64_t)m};
    if (real(log_fd, &entry, sizeof entry) != sizeof entry || (n && real(log_fd, first, n) != (ssize_t)n) ||
        (m && real(log_fd, second, m) != (ssize_t)m))
        abort();
    errno = before;
}

void shim_mark(const char *text) { note(MARK, 0, 0, text, strlen(text), 0, 0); }

static uint64_t inode_of(int fd) {
    struct stat found;
    return fstat(fd, &found) ? 0 : found.st_ino;
}

static void note_names(int kind, const char *first, const char *second) {
    struct stat found;
    uint64_t inode = lstat(second ? second : first, &found) ? 0 : found.st_ino;
    note(kind, inode, 0, first, strlen(first), second, second ? strlen(second) : 0);
}

static off_t place(int fd) { /* where the next write goes */
    if (mode != RECORD) return 0;
    return fcntl(fd, F_GETFL) & O_APPEND ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
}

/* ---- opening and closing ---- */

static int opened(int (*real)(int, const char *, int, ...), int at, const char *path, int flags, mode_t rights) {
    char space[PATH_MAX];
    const char *whole = folder_length ? absolute(at, path, space) : path;
    int mine = below(whole), is_new = 0;
    if (mine) {
        struct stat found;
        is_new = (flags & O_CREAT) && lstat(whole, &found);
        if ((flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC)))
            FAIL_IF(writing(LONG | (is_new ? SPACE : 0)));
        else
            FAIL_IF(reading());
    }
    int fd = real(at, path, flags, rights);
    set_ours(fd, mine);
    if (mine && fd >= 0) {
        if (is_new) note_names(CREATE, whole, 0);
        else if (flags & O_TRUNC) note(TRUNCATE, inode_of(fd), 0, 0, 0, 0, 0);
    }
    return fd;
}

#define RIGHTS(flags)                                                                                                 \
    mode_t rights = 0;                                                                                                \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                                                            \
        va_list more;                                                                                                 \
        va_start(more, flags);                                                                                        \
        rights = va_arg(more, mode_t);                                                                                \
        va_end(more);                                                                                                 \
    }

int openat(int at, const char *path, int flags, ...) {
    RIGHTS(flags)
    REAL(int, "openat", int, const char *, int, ...);
    return opened(real, at, path, flags, rights);
}
int openat64(int at, const char *path, int flags, ...) {
    RIGHTS(flags)
    return openat(at, path, flags | O_LARGEFILE, rights);
}
int open(const char *path, int flags, ...) {
    RIGHTS(flags)
    return openat(AT_FDCWD, path, flags, rights);
}
int open64(const char *path, int flags, ...) {
    RIGHTS(flags)
    return openat(AT_FDCWD, path, flags | O_LARGEFILE, rights);
}
int __open_2(const char *path, int flags) { return openat(AT_FDCWD, path, flags); }
int __open64_2(const char *path, int flags) { return openat(AT_FDCWD, path, flags | O_LARGEFILE); }
int __openat_2(int at, const char *path, int flags) { return openat(at, path, flags); }
int __openat64_2(int at, const char *path, int flags) { return openat(at, path, flags | O_LARGEFILE); }
int creat(const char *path, mode_t rights) { return openat(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, rights); }

int close(int fd) {
    REAL(int, "close", int);
    set_ours(fd, 0);
    return real(fd);
}
int dup(int fd) {
    REAL(int, "dup", int);
    int other = real(fd);
    set_ours(other, is_ours(fd));
    return other;
}
int dup2(int fd, int to) {
    REAL(int, "dup2", int, int);
    int other = real(fd, to);
    set_ours(other, is_ours(fd));
    return other;
}
int dup3(int fd, int to, int flags) {
    REAL(int, "dup3", int, int, int);
    int other = real(fd, to, flags);
    set_ours(other, is_ours(fd));
    return other;
}
int fcntl64(int fd, int command, ...) {
    REAL(int, "fcntl64", int, int, ...);
    va_list more;
    va_start(more, command);
    void *value = va_arg(more, void *);
    va_end(more);
    int result = real(fd, command, value);
    if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) set_ours(result, is_ours(fd));
    return result;
}
int fcntl(int fd, int command, ...) {
    va_list more;
    va_start(more, command);
    void *value = va_arg(more, void *);
    va_end(more);
    return fcntl64(fd, command, value);
}

/* stdio calls the kernel from within libc: seen here, a call at a time */
static FILE *opened_stream(FILE *(*real)(const char *, const char *), const char *path, const char *how) {
    char space[PATH_MAX];
    const char *whole = folder_length ? absolute(AT_FDCWD, path, space) : path;
    int mine = below(whole), is_new = 0;
    if (mine) {
        struct stat found;
        is_new = how[0] != 'r' && lstat(whole, &found);
        int problem = how[0] == 'r' && !strchr(how, '+') ? reading() : writing(LONG | (is_new ? SPACE : 0));
        if (problem > 0) {
            errno = problem;
            return NULL;
        }
    }
    FILE *file = real(path, how);
    if (file) {
        set_ours(fileno(file), mine);
        if (mine && is_new) note_names(CREATE, whole, 0);
        else if (mine && how[0] == 'w') note(TRUNCATE, inode_of(fileno(file)), 0, 0, 0, 0, 0);
    }
    return file;
}
FILE *fopen(const char *path, const char *how) {
    REAL(FILE *, "fopen", const char *, const char *);
    return opened_stream(real, path, how);
}
FILE *fopen64(const char *path, const char *how) {
    REAL(FILE *, "fopen64", const char *, const char *);
    return opened_stream(real, path, how);
}
int fclose(FILE *file) {
    REAL(int, "fclose", FILE *);
    set_ours(fileno(file), 0);
    return real(file);
}
size_t fread(void *data, size_t size, size_t n, FILE *file) {
    REAL(size_t, "fread", void *, size_t, size_t, FILE *);
    int problem = is_ours(fileno(file)) ? reading() : 0;
    if (problem > 0) {
        file->_flags |= 0x20; /* glibc's _IO_ERR_SEEN, which ferror looks at */
        errno = problem;
        return 0;
    }
    return real(data, size, n, file);
}
size_t fwrite(const void *data, size_t size, size_t n, FILE *file) {
    REAL(size_t, "fwrite", const void *, size_t, size_t, FILE *);
    if (!is_ours(fileno(file))) return real(data, size, n, file);
    int problem = writing(SPACE | LONG);
    if (problem > 0) {
        file->_flags |= 0x20;
        errno = problem;
        return 0;
    }
    off_t at = mode == RECORD ? ftello(file) : 0;
    size_t done = real(data, size, n, file);
    note(WRITE, inode_of(fileno(file)), at, data, done * size, 0, 0);
    return done;
}

/* ---- reading ---- */

#define READS(result, name, types, names)                                                                             \
    result name types {                                                                                               \
        static result (*real) types;                                                                                  \
        if (!real) real = (result (*) types)dlsym(RTLD_NEXT, #name);                                                  \
        if (is_ours(fd)) FAIL_IF(reading());                                                                          \
        return real names;                                                                                            \
    }
READS(ssize_t, read, (int fd, void *data, size_t n), (fd, data, n))
READS(ssize_t, pread, (int fd, void *data, size_t n, off_t at), (fd, data, n, at))
READS(ssize_t, pread64, (int fd, void *data, size_t n, off64_t at), (fd, data, n, at))
READS(ssize_t, readv, (int fd, const struct iovec *parts, int n), (fd, parts, n))
ssize_t __read_chk(int fd, void *data, size_t n, size_t room) { return n > room ? (abort(), -1) : read(fd, data, n); }

/* ---- writing ---- */

#define TRAITS (SPACE | LONG | DATA)

ssize_t write(int fd, const void *data, size_t n) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (!is_ours(fd)) return real(fd, data, n);
    int how = writing(TRAITS);
    FAIL_IF(how);
    off_t at = place(fd);
    ssize_t done = real(fd, data, how < 0 && n > 1 ? n / 2 : n);
    if (done > 0) note(WRITE, inode_of(fd), at, data, done, 0, 0);
    return done;
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    if (!is_ours(fd)) return real(fd, data, n, at);
    int how = writing(TRAITS);
    FAIL_IF(how);
    ssize_t done = real(fd, data, how < 0 && n > 1 ? n / 2 : n, at);
    if (done > 0) note(WRITE, inode_of(fd), at, data, done, 0, 0);
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return pwrite64(fd, data, n, at); }
ssize_t writev(int fd, const struct iovec *parts, int n) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    return is_ours(fd) && n > 0 ? write(fd, parts[0].iov_base, parts[0].iov_len) : real(fd, parts, n);
}

/* what was copied is read back for the record */
static void note_copied(int fd, off_t at, ssize_t n) {
    REAL(ssize_t, "pread", int, void *, size_t, off_t);
    if (mode != RECORD || n <= 0) return;
    char *data = malloc(n), name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    int again = open(name, O_RDONLY | O_CLOEXEC); /* fd may be for writing only */
    if (real(again, data, n, at) != n) abort();
    close(again);
    note(WRITE, inode_of(fd), at, data, n, 0, 0);
    free(data);
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t n) {
    REAL(ssize_t, "sendfile64", int, int, off64_t *, size_t);
    if (!is_ours(to)) return real(to, from, at, n);
    int how = writing(TRAITS);
    FAIL_IF(how);
    off_t start = place(to);
    ssize_t done = real(to, from, at, how < 0 && n > 1 ? n / 2 : n);
    note_copied(to, start, done);
    return done;
}
ssize_t sendfile(int to, int from, off_t *at, size_t n) { return sendfile64(to, from, at, n); }
ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t n, unsigned flags) {
    REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
    if (!is_ours(to)) return real(from, a, to, b, n, flags);
    int how = writing(TRAITS);
    FAIL_IF(how);
    off_t start = b ? *b : place(to);
    ssize_t done = real(from, a, to, b, how < 0 && n > 1 ? n / 2 : n, flags);
    note_copied(to, start, done);
    return done;
}

int fsync(int fd) {
    REAL(int, "fsync", int);
    if (is_ours(fd)) FAIL_IF(writing(LONG));
    int result = real(fd);
    if (is_ours(fd) && !result) note(SYNC, inode_of(fd), 0, 0, 0, 0, 0);
    return result;
}
int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    if (is_ours(fd)) FAIL_IF(writing(LONG));
    int result = real(fd);
    if (is_ours(fd) && !result) note(SYNC, inode_of(fd), 0, 0, 0, 0, 0);
    return result;
}
int ftruncate64(int fd, off64_t size) {
    REAL(int, "ftruncate64", int, off64_t);
    if (is_ours(fd)) FAIL_IF(writing(SPACE | LONG));
    int result = real(fd, size);
    if (is_ours(fd) && !result) note(TRUNCATE, inode_of(fd), size, 0, 0, 0, 0);
    return result;
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }
int truncate64(const char *path, off64_t size) {
    REAL(int, "truncate64", const char *, off64_t);
    char space[PATH_MAX];
    int mine = folder_length && below(absolute(AT_FDCWD, path, space));
    if (mine) FAIL_IF(writing(SPACE | LONG));
    int result = real(path, size);
    struct stat found;
    if (mine && !result && !stat(path, &found)) note(TRUNCATE, found.st_ino, size, 0, 0, 0, 0);
    return result;
}
int truncate(const char *path, off_t size) { return truncate64(path, size); }
int fallocate64(int fd, int how, off64_t at, off64_t n) {
    REAL(int, "fallocate64", int, int, off64_t, off64_t);
    if (is_ours(fd)) FAIL_IF(writing(SPACE | LONG));
    return real(fd, how, at, n);
}
int fallocate(int fd, int how, off_t at, off_t n) { return fallocate64(fd, how, at, n); }
int posix_fallocate64(int fd, off64_t at, off64_t n) {
    REAL(int, "posix_fallocate64", int, off64_t, off64_t);
    int problem = is_ours(fd) ? writing(SPACE | LONG) : 0;
    return problem > 0 ? problem : real(fd, at, n);
}
int posix_fallocate(int fd, off_t at, off_t n) { return posix_fallocate64(fd, at, n); }

/* ---- names ---- */

static int named(int at, const char *path, char *space, const char **whole) {
    if (!folder_length) return 0;
    *whole = absolute(at, path, space);
    return below(*whole);
}

int mkdirat(int at, const char *path, mode_t rights) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    char space[PATH_MAX];
    const char *whole;
    int mine = named(at, path, space, &whole);
    if (mine) FAIL_IF(writing(SPACE));
    int result = real(at, path, rights);
    if (mine && !result) note_names(MAKE, whole, 0);
    return result;
}
int mkdir(const char *path, mode_t rights) { return mkdirat(AT_FDCWD, path, rights); }

int unlinkat(int at, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    char space[PATH_MAX];
    const char *whole;
    int mine = named(at, path, space, &whole);
    if (mine) FAIL_IF(writing(0));
    int result = real(at, path, flags);
    if (mine && !result) note(UNLINK, 0, 0, whole, strlen(whole), 0, 0);
    return result;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int renameat2(int at, const char *path, int to_at, const char *to, unsigned flags) {
    REAL(int, "renameat2", int, const char *, int, const char *, unsigned);
    char space[PATH_MAX], to_space[PATH_MAX];
    const char *whole, *to_whole;
    int mine = named(at, path, space, &whole) | named(to_at, to, to_space, &to_whole);
    if (mine) FAIL_IF(writing(SPACE));
    int result = real(at, path, to_at, to, flags);
    if (mine && !result) note_names(RENAME, whole, to_whole);
    return result;
}
int renameat(int at, const char *path, int to_at, const char *to) { return renameat2(at, path, to_at, to, 0); }
int rename(const char *path, const char *to) { return renameat2(AT_FDCWD, path, AT_FDCWD, to, 0); }

int linkat(int at, const char *path, int to_at, const char *to, int flags) {
    REAL(int, "linkat", int, const char *, int, const char *, int);
    char space[PATH_MAX], to_space[PATH_MAX];
    const char *whole, *to_whole;
    int mine = named(at, path, space, &whole) | named(to_at, to, to_space, &to_whole);
    if (mine) FAIL_IF(writing(SPACE));
    int result = real(at, path, to_at, to, flags);
    if (mine && !result) note_names(LINK, whole, to_whole);
    return result;
}
int link(const char *path, const char *to) { return linkat(AT_FDCWD, path, AT_FDCWD, to, 0); }
