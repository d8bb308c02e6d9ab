/* Products with float32 weights. */

#include "step_floats.h"

void multiply_fp32(
    const Matrix *m, const Activations *x, int count, int begin, int end, float *target, int64_t stride, int add) {
    multiply_floats(m, x->values, count, begin, end, F32, target, stride, add);
}
