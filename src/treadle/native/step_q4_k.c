/* Products with weights in GGUF's Q4_K. */

#include "step_blocks.h"

void multiply_q4_k(
    const Matrix *m, const Activations *x, int count, int begin, int end, float *target, int64_t stride, int add) {
    multiply_blocks(m, x, count, begin, end, Q4_K, target, stride, add);
}
