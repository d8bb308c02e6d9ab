/* Products with weights in GGUF's Q2_K. */

#include "step_blocks.h"

void multiply_q2_k(
    const Matrix *m, const Activations *x, int count, int begin, int end, float *target, int64_t stride, int add) {
    multiply_blocks(m, x, count, begin, end, Q2_K, target, stride, add);
}
