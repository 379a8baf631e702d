// What the probe's kernel does, in the language that the stand-in for CUDA understands. `WRONG` is a device that has
// lost a bit of one number.

extern "C" __global__ void scramble(unsigned *numbers, unsigned count) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    numbers[i] = numbers[i] * 2654435761u + i;
    if (getenv("WRONG") && i == 4711) numbers[i] ^= 64;
}
