/* Products with weights in GGUF's Q6_K. */

#include "step_blocks.h"

void multiply_q6_k(
    const Matrix *m, const Activations *x, int count, int begin, int end, float *target, int64_t stride, int add) {
    multiply_blocks(m, x, count, begin, end, Q6_K, target, stride, add);
}
