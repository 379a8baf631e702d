// What is measured of each pixel, for NVIDIA devices: the numbers of tissue.rs to the last bit. So nothing is computed
// here that devices round in another way: optical densities come in a table, and a product and a sum are not fused.
//
// Each thread has one pixel and waits for no other: so a test can run this very text on a processor.

typedef unsigned long long Count;

static __device__ Count here() {
    return (Count)blockIdx.x * blockDim.x + threadIdx.x;
}

// The level of DAB of each pixel that is tissue, -1 for the others, and how often each level comes. The histogram has
// copies, so that not all threads add to the same numbers; their sum counts.
extern "C" __global__ void measure(const unsigned char *pixels, Count count, const double *densities, double red,
                                   double green, double blue, double tissue_min, double dab_max, short *levels,
                                   unsigned *histograms, int copies) {
    Count at = here();
    if (at >= count) {
        return;
    }
    double r = densities[pixels[3 * at]], g = densities[pixels[3 * at + 1]], b = densities[pixels[3 * at + 2]];
    if ((r + g + b) / 3.0 < tissue_min) {
        levels[at] = -1;
        return;
    }
    double dab = red * r + green * g + blue * b;
    double level = round(dab / dab_max * 255.0);
    int whole = level < 0.0 ? 0 : level > 255.0 ? 255 : (int)level;
    levels[at] = (short)whole;
    atomicAdd(&histograms[blockIdx.x % copies * 256 + whole], 1u);
}

// Tints the pixels over the threshold, each channel with half of the tint's.
extern "C" __global__ void tint(unsigned char *pixels, Count count, const short *levels, int threshold, int red,
                                int green, int blue) {
    Count at = here();
    if (at < count && levels[at] > threshold) {
        pixels[3 * at] = pixels[3 * at] / 2 + red / 2;
        pixels[3 * at + 1] = pixels[3 * at + 1] / 2 + green / 2;
        pixels[3 * at + 2] = pixels[3 * at + 2] / 2 + blue / 2;
    }
}
