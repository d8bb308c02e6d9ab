/* Products with weights in GGUF's Q3_K. */

#include "step_blocks.h"

void multiply_q3_k(
    const Matrix *m, const Activations *x, int count, int begin, int end, float *target, int64_t stride, int add) {
    multiply_blocks(m, x, count, begin, end, Q3_K, target, stride, add);
}
