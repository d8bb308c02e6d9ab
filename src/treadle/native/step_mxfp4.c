/* Products with weights in GGUF's MXFP4. */

#include "step_blocks.h"

void multiply_mxfp4(
    const Matrix *m, const Activations *x, int count, int begin, int end, float *target, int64_t stride, int add) {
    multiply_blocks(m, x, count, begin, end, MXFP4, target, stride, add);
}
