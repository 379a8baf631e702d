// CUDA on the processor, for tests of programs that use a device: the few calls of the driver, of NVRTC and of cuBLAS
// that they make, in one library under the names of all three. The kernels are the very text that a device gets,
// compiled into this library; "device" memory is ordinary memory. It checks what a device would not forgive quietly:
// writes beyond an allocation, a call on a thread that has no context, a kernel's name that is not there. New memory
// holds no numbers (NaN), as a device's holds anything. It says nothing about speed.

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#define __global__
#define __device__
struct Three { unsigned x, y, z; };
static thread_local Three threadIdx, blockIdx, blockDim, gridDim;
static inline unsigned atomicAdd(unsigned *at, unsigned by) { unsigned was = *at; *at += by; return was; }

#include KERNELS // the text under test, with `__global__` and all

enum { SUCCESS = 0, OUT_OF_MEMORY = 2, NO_DEVICE = 100, NO_CONTEXT = 201, NOT_FOUND = 500 };
using Launch = void (*)(void **);

// Calls a kernel with its arguments as the driver gets them: pointers to them, in order.
template <auto Kernel, class... A, size_t... I>
static void call(void (*)(A...), void **with, std::index_sequence<I...>) { Kernel(*static_cast<A *>(with[I])...); }
template <auto Kernel, class... A>
static Launch launch_of(void (*)(A...)) {
    return [](void **with) { call<Kernel>(Kernel, with, std::index_sequence_for<A...>{}); };
}
#define KERNEL(name) {#name, launch_of<name>(name)},
static const std::map<std::string, Launch> kernels = {
#include "kernels.inc"
};

static const size_t GUARD = 64;
static const unsigned char MARK = 0xA5;
static std::map<uintptr_t, size_t> allocations;
static std::mutex allocating;
static size_t taken = 0;
static thread_local void *current = nullptr;
static int the_context;

static void die(const char *why) { fprintf(stderr, "stand-in for CUDA: %s\n", why); abort(); }

static size_t memory() {
    const char *set = getenv("STAND_IN_MEMORY");
    return set ? strtoull(set, nullptr, 10) : size_t(4) << 30;
}

static int take(uintptr_t *at, size_t bytes) {
    if (!current) return NO_CONTEXT;
    if (bytes == 0) return 1; // invalid value, as the driver has it
    std::lock_guard<std::mutex> lock(allocating);
    if (taken + bytes > memory()) return OUT_OF_MEMORY;
    auto *block = static_cast<unsigned char *>(malloc(bytes + 2 * GUARD));
    memset(block, MARK, bytes + 2 * GUARD);
    memset(block + GUARD, 0xFF, bytes);
    *at = reinterpret_cast<uintptr_t>(block + GUARD);
    allocations[*at] = bytes;
    taken += bytes;
    return SUCCESS;
}

static int give_back(uintptr_t at) {
    std::lock_guard<std::mutex> lock(allocating);
    auto found = allocations.find(at);
    if (found == allocations.end()) die("memory is given back that was not taken");
    auto *block = reinterpret_cast<unsigned char *>(at);
    for (size_t i = 0; i < GUARD; i++)
        if (block[-1 - long(i)] != MARK || block[found->second + i] != MARK) die("a write beyond an allocation");
    taken -= found->second;
    free(block - GUARD);
    allocations.erase(found);
    return SUCCESS;
}

// The bytes of [at, at + bytes) are one allocation's.
static void within(uintptr_t at, size_t bytes) {
    std::lock_guard<std::mutex> lock(allocating);
    auto next = allocations.upper_bound(at);
    if (next == allocations.begin()) die("an address outside of every allocation");
    --next;
    if (at + bytes > next->first + next->second) die("a copy beyond an allocation");
}

extern "C" {
int cuInit(unsigned) { return SUCCESS; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal == 0 ? SUCCESS : NO_DEVICE; }
int cuDeviceGetCount(int *count) { *count = 1; return SUCCESS; }
int cuDeviceGetAttribute(int *value, int, int) { *value = 1; return SUCCESS; }
int cuDeviceGetName(char *name, int size, int) { snprintf(name, size, "stand-in"); return SUCCESS; }
int cuDevicePrimaryCtxRetain(void **context, int) { *context = &the_context; return SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxGetCurrent(void **context) { *context = current; return SUCCESS; }
int cuCtxSetCurrent(void *context) { current = context; return SUCCESS; }
int cuEventCreate(void **event, unsigned) { *event = &the_context; return SUCCESS; }
int cuEventDestroy_v2(void *) { return SUCCESS; }
int cuStreamSynchronize(void *) { return current ? SUCCESS : NO_CONTEXT; }
int cuMemAlloc_v2(uintptr_t *at, size_t bytes) { return take(at, bytes); }
int cuMemAllocAsync(uintptr_t *at, size_t bytes, void *) { return take(at, bytes); }
int cuMemFree_v2(uintptr_t at) { return give_back(at); }
int cuMemFreeAsync(uintptr_t at, void *) { return give_back(at); }
int cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t bytes, void *) {
    within(to, bytes);
    memcpy(reinterpret_cast<void *>(to), from, bytes);
    return SUCCESS;
}
int cuMemcpyDtoHAsync_v2(void *to, uintptr_t from, size_t bytes, void *) {
    within(from, bytes);
    memcpy(to, reinterpret_cast<void *>(from), bytes);
    return SUCCESS;
}
int cuMemsetD8Async(uintptr_t at, unsigned char value, size_t bytes, void *) {
    within(at, bytes);
    memset(reinterpret_cast<void *>(at), value, bytes);
    return SUCCESS;
}
int cuModuleLoadData(void **module, const void *) { *module = &the_context; return SUCCESS; }
int cuModuleUnload(void *) { return SUCCESS; }
int cuModuleGetFunction(void **function, void *, const char *name) {
    auto found = kernels.find(name);
    if (found == kernels.end()) return NOT_FOUND;
    *function = reinterpret_cast<void *>(found->second);
    return SUCCESS;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned,
                   void *, void **with, void **) {
    if (!current) return NO_CONTEXT;
    if (gx == 0 || gy != 1 || gz != 1 || bx == 0 || bx > 1024 || by != 1 || bz != 1) return 1;
    gridDim = {gx, 1, 1};
    blockDim = {bx, 1, 1};
    for (unsigned block = 0; block < gx; block++)
        for (unsigned thread = 0; thread < bx; thread++) {
            blockIdx = {block, 0, 0};
            threadIdx = {thread, 0, 0};
            reinterpret_cast<Launch>(function)(with);
        }
    return SUCCESS;
}
int cuGetErrorName(int error, const char **name) {
    *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : error == NO_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT" : "CUDA_ERROR";
    return SUCCESS;
}
int cuGetErrorString(int error, const char **text) {
    *text = error == OUT_OF_MEMORY ? "out of memory" : "told by the stand-in";
    return SUCCESS;
}

// NVRTC: the text is its own translation.
struct Program { std::string text; };
int nvrtcCreateProgram(Program **program, const char *text, const char *, int, const char *const *, const char *const *) {
    *program = new Program{text};
    return 0;
}
int nvrtcCompileProgram(Program *, int, const char *const *) { return 0; }
int nvrtcGetPTXSize(Program *program, size_t *size) { *size = program->text.size() + 1; return 0; }
int nvrtcGetPTX(Program *program, char *to) { strcpy(to, program->text.c_str()); return 0; }
int nvrtcDestroyProgram(Program **program) { delete *program; return 0; }
int nvrtcGetProgramLogSize(Program *, size_t *size) { *size = 1; return 0; }
int nvrtcGetProgramLog(Program *, char *to) { *to = 0; return 0; }

// cuBLAS, as its documentation defines the two products: matrices by columns, with leading dimensions.
int cublasCreate_v2(void **handle) { *handle = &the_context; return current ? 0 : 1; }
int cublasDestroy_v2(void *) { return 0; }
int cublasSetStream_v2(void *, void *) { return 0; }
int cublasSgemm_v2(void *, int transa, int transb, int m, int n, int k, const float *alpha, const float *a, int lda,
                   const float *b, int ldb, const float *beta, float *c, int ldc) {
    if (!current) return 13;
    if (lda < (transa ? k : m) || ldb < (transb ? n : k) || ldc < m) return 7;
    within(uintptr_t(a), (size_t(lda) * ((transa ? m : k) - 1) + (transa ? k : m)) * 4);
    within(uintptr_t(b), (size_t(ldb) * ((transb ? k : n) - 1) + (transb ? n : k)) * 4);
    within(uintptr_t(c), (size_t(ldc) * (n - 1) + m) * 4);
    for (int column = 0; column < n; column++) {
        float *to = c + size_t(ldc) * column;
        for (int i = 0; i < m; i++) to[i] = *beta == 0 ? 0 : *beta * to[i];
        for (int l = 0; l < k; l++) {
            float by = *alpha * (transb ? b[column + size_t(ldb) * l] : b[l + size_t(ldb) * column]);
            if (transa)
                for (int i = 0; i < m; i++) to[i] += by * a[l + size_t(lda) * i];
            else
                for (int i = 0; i < m; i++) to[i] += by * a[i + size_t(lda) * l];
        }
    }
    return 0;
}
int cublasSgemv_v2(void *, int trans, int m, int n, const float *alpha, const float *a, int lda, const float *x, int incx,
                   const float *beta, float *y, int incy) {
    if (!current) return 13;
    if (lda < m) return 7;
    int rows = trans ? n : m, inner = trans ? m : n;
    within(uintptr_t(a), (size_t(lda) * (n - 1) + m) * 4);
    within(uintptr_t(x), size_t(inner) * incx * 4);
    within(uintptr_t(y), size_t(rows) * incy * 4);
    for (int i = 0; i < rows; i++) {
        float sum = 0;
        for (int l = 0; l < inner; l++) sum += (trans ? a[l + size_t(lda) * i] : a[i + size_t(lda) * l]) * x[l * incx];
        y[i * incy] = *alpha * sum + (*beta == 0 ? 0 : *beta * y[i * incy]);
    }
    return 0;
}
}
