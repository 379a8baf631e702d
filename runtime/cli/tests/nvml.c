// NVML as a machine with these four devices would answer: a whole one, one that MIG has divided into two instances, one
// that has fallen off the bus, and one whose power cannot be read, because that call never returns.

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, TIMEOUT = 10, LOST = 15 };
enum { INSUFFICIENT_SIZE = 7, MIG_PARENT = 1, INSTANCE = 10 };

typedef struct { int number; } Device;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory;
typedef struct { unsigned gpu, memory; } Utilisation;
typedef struct { unsigned pid; unsigned long long memory; unsigned instance, compute; } Process;
typedef struct { Device *device; unsigned long long type, data; unsigned instance, compute; } Event;

static Device devices[20];
static int set, told;

int nvmlInit_v2(void) {
    const char *fails = getenv("NVML_INIT_FAILS");
    for (int i = 0; i < 20; i++) devices[i].number = i;
    return fails ? atoi(fails) : OK;
}
int nvmlShutdown(void) { return OK; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { strncpy(text, "580.95.05", size); return OK; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 4; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    *device = &devices[index];
    return index == 2 ? LOST : OK;
}
int nvmlDeviceGetUUID(Device *device, char *text, unsigned size) {
    static const char *whole[] = {"GPU-a0", "GPU-b1", "GPU-c2", "GPU-d3"}, *part[] = {"MIG-b10", "", "MIG-b12"};
    int n = device->number;
    strncpy(text, n >= INSTANCE ? part[n - INSTANCE] : whole[n], size);
    return OK;
}
int nvmlDeviceGetName(Device *device, char *text, unsigned size) {
    strncpy(text, device->number >= INSTANCE ? "NVIDIA A100 MIG 3g.20gb" : "NVIDIA A100", size);
    return OK;
}
int nvmlDeviceGetMemoryInfo_v2(Device *device, Memory *memory) {
    memory->total = (device->number >= INSTANCE ? 20ULL : 40ULL) << 30;
    memory->used = (unsigned long long)(device->number + 1) << 20;
    return OK;
}
int nvmlDeviceGetCudaComputeCapability(Device *device, int *major, int *minor) {
    *major = 8, *minor = 0;
    return device->number >= INSTANCE ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending) {
    *current = *pending = device->number == MIG_PARENT;
    return device->number == 0 ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *count) { (void)device, *count = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned index, Device **instance) {
    *instance = &devices[INSTANCE + index];
    return device->number == MIG_PARENT && (index == 0 || index == 2) ? OK : NOT_FOUND;
}
int nvmlDeviceGetPowerUsage(Device *device, unsigned *milliwatts) {
    while (device->number == 3) pause();
    *milliwatts = 71900;
    return OK;
}
int nvmlDeviceGetTemperature(Device *device, unsigned sensor, unsigned *degrees) {
    (void)device, (void)sensor, *degrees = 64;
    return OK;
}
int nvmlDeviceGetTotalEccErrors(Device *device, unsigned kind, unsigned counter, unsigned long long *count) {
    *count = kind == 1 && counter == 0 ? 2 : 99; // uncorrected, since the driver was loaded
    return device->number == 0 ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetUtilizationRates(Device *device, Utilisation *rates) {
    rates->gpu = 97, rates->memory = 1;
    return device->number == 0 ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned *count, Process *processes) {
    if (device->number != 0) return *count = 0, OK;
    if (!processes) return *count = 1, INSUFFICIENT_SIZE;
    processes[0] = (Process){.pid = getppid(), .memory = 5, .instance = ~0u, .compute = ~0u};
    return *count = 1, OK;
}
int nvmlEventSetCreate(int **events) { *events = &set; return OK; }
int nvmlEventSetFree(int *events) { (void)events; return OK; }
int nvmlDeviceRegisterEvents(Device *device, unsigned long long types, int *events) {
    (void)events;
    return types == 8 && device->number != MIG_PARENT ? OK : NOT_SUPPORTED;
}
int nvmlEventSetWait_v2(int *events, Event *event, unsigned ms) {
    (void)events;
    if (told++) return usleep(ms * 1000), TIMEOUT;
    *event = (Event){.device = &devices[0], .type = 8, .data = 79};
    return OK;
}
