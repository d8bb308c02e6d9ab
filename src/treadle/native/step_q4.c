/* Products with 4-bit weights. */

#include "step_codes.h"

void multiply_q4(
    const Matrix *m, const Activations *x, int count, int begin, int end, float *target, int64_t stride, int add) {
    multiply_codes(m, x, count, begin, end, Q4, target, stride, add);
}
