// discard: pages within the view are given back (and read as zeros where the system says so), bytes outside it keep
// their values, and views with gaps are refused.
#include "check.h"

using namespace og_test;

int main() {
  constexpr int64_t kBytes = 1 << 20, kMargin = 5000;
  for_each_isa([&](og::Isa isa) {
    std::vector<unsigned char> memory((size_t)kBytes, 7);
    og_view view = {};
    view.data = memory.data() + kMargin;
    view.dtype = OG_U8;
    view.rank = 1;
    view.shape[0] = kBytes - 2 * kMargin;
    view.strides[0] = 1;
    og_call call = {nullptr, &view, nullptr, 0, 1, 0};
    const int32_t kernel = og::kernel_id("discard");
    CHECK_OK(og::run_kernel_on(isa, kernel, call));
    int64_t changed = 0, zeros = 0;
    for (int64_t i = 0; i < kBytes; i++) {
      const bool inside = i >= kMargin && i < kBytes - kMargin;
      if (!inside && memory[(size_t)i] != 7) changed++;
      if (inside && memory[(size_t)i] == 0) zeros++;
    }
    CHECK(changed == 0, "%d bytes outside the view changed", (int)changed);
#if defined(__linux__)
    CHECK(zeros >= kBytes - 2 * kMargin - 2 * 65536, "only %d bytes given back", (int)zeros);
#endif
    view.shape[0] = 16;  // less than a page
    CHECK_OK(og::run_kernel_on(isa, kernel, call));
    view.shape[0] = 0;
    CHECK_OK(og::run_kernel_on(isa, kernel, call));
    view.shape[0] = 100;
    view.strides[0] = 2;
    CHECK_FAILS(og::run_kernel_on(isa, kernel, call), OG_INVALID);
  });
  return finish("discard");
}
