// The parts of learning that are no product of matrices, for NVIDIA devices. What they compute, and in which order,
// is what the processor's code does (cpu.rs, distort.rs).
//
// Each thread has one number to make and no thread waits for another: so a test can run this very text on a processor.
// Pictures, outputs and slopes have a row for each picture of the batch.

typedef unsigned long long Count;

static __device__ Count here() {
    return (Count)blockIdx.x * blockDim.x + threadIdx.x;
}

// The pixel of a picture, and paper outside of it.
static __device__ float pixel(const float *picture, int width, int height, float column, float row) {
    bool inside = column >= 0.0f && row >= 0.0f && column < width && row < height;
    return inside ? picture[(int)row * width + (int)column] : 0.0f;
}

// Puts the pictures of a batch in its rows: those that `order` names from `first` on. Where there are distortions, each
// is shown turned and scaled (cosine, sine) and moved (x, y) by the four numbers of its place in the order.
extern "C" __global__ void show(const float *pictures, const unsigned *order, const float *distortions, Count first,
                                Count rows, int width, int height, int distorted, float *images) {
    Count pixels = (Count)width * height;
    Count at = here();
    if (at >= rows * pixels) {
        return;
    }
    Count shown = first + at / pixels;
    int place = (int)(at % pixels);
    const float *picture = pictures + order[shown] * pixels;
    if (!distorted) {
        images[at] = picture[place];
        return;
    }
    const float *by = distortions + 4 * shown;
    float middle_x = (width - 1) / 2.0f, middle_y = (height - 1) / 2.0f;
    float x = place % width - middle_x, y = place / width - middle_y;
    float from_x = by[0] * x - by[1] * y + middle_x + by[2];
    float from_y = by[1] * x + by[0] * y + middle_y + by[3];
    float left = floorf(from_x), top = floorf(from_y);
    float right_share = from_x - left, bottom_share = from_y - top;
    float upper = pixel(picture, width, height, left, top) * (1.0f - right_share) +
                  pixel(picture, width, height, left + 1.0f, top) * right_share;
    float lower = pixel(picture, width, height, left, top + 1.0f) * (1.0f - right_share) +
                  pixel(picture, width, height, left + 1.0f, top + 1.0f) * right_share;
    images[at] = upper * (1.0f - bottom_share) + lower * bottom_share;
}

// Adds the bias, and cuts off below zero where the layer bends. A value that is no number stays one. The task's limits keep
// a batch's outputs far below 2^32, so that the column is found by a quick remainder.
extern "C" __global__ void bend(float *outputs, const float *bias, Count count, int columns, int bends) {
    Count at = here();
    if (at < count) {
        float value = outputs[at] + bias[(unsigned)at % (unsigned)columns];
        outputs[at] = bends && value < 0.0f ? 0.0f : value;
    }
}

// The cross-entropy of the softmax of each row's scores: adds its share of the epoch's loss, and gives the slopes of the
// batch's mean along every score. The largest score is taken away first, so that nothing overflows.
extern "C" __global__ void judge(const float *scores, const unsigned char *labels, const unsigned *order, Count first,
                                 Count rows, int classes, float share, float *slopes, float *losses) {
    Count row = here();
    if (row >= rows) {
        return;
    }
    scores += row * classes;
    slopes += row * classes;
    int label = labels[order[first + row]];
    float largest = scores[0];
    for (int i = 1; i < classes; i++) {
        largest = fmaxf(largest, scores[i]);
    }
    float sum = 0.0f;
    for (int i = 0; i < classes; i++) {
        slopes[i] = expf(scores[i] - largest);
        sum += slopes[i];
    }
    for (int i = 0; i < classes; i++) {
        slopes[i] = (slopes[i] / sum - (i == label ? 1.0f : 0.0f)) / rows;
    }
    losses[row] += (logf(sum) - (scores[label] - largest)) * share;
}

// Where the layer below was cut off at zero, nothing flows back.
extern "C" __global__ void hold_back(float *slopes, const float *outputs, Count count) {
    Count at = here();
    if (at < count && outputs[at] <= 0.0f) {
        slopes[at] = 0.0f;
    }
}

// A step downhill. The velocity holds the slopes already; the first `decaying` parameters, the weights, are pulled
// towards zero as well.
extern "C" __global__ void descend(float *parameters, float *velocity, Count count, Count decaying, float rate,
                                   float decay) {
    Count at = here();
    if (at < count) {
        float speed = velocity[at] + (at < decaying ? decay * parameters[at] : 0.0f);
        velocity[at] = speed;
        parameters[at] -= rate * speed;
    }
}
