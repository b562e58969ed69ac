// From sums to output: y = act(float(acc) * (row_scale * scale) + bias) for integer sums and
// y = act(acc + bias) for fp32 ones, each step rounded to fp32.

// Calls finish(r, c, n) for the columns c.. of row r, 16 at a time; n < 16 in the last part.
template <class Job, class Finish>
inline void each_part(const Job& job, const Finish& finish) {
  for (int r = 0; r < job.row_count; ++r) {
    std::int64_t c = 0;
    for (; c + kLanes <= job.columns; c += kLanes) finish(r, c, kLanes);
    if (c < job.columns) finish(r, c, static_cast<int>(job.columns - c));
  }
}

template <Activation ACTIVATION, bool BIAS>
struct FromInt32 {
  static void run(const EpilogueFp32& job) {
    each_part(job, [&](int r, std::int64_t c, int n) {
      const F16 scale = mul(set_f(job.row_scale[r]), load_lanes(job.scale + c, n));
      F16 y = mul(to_float(load_i(job.acc + r * job.acc_stride + c)), scale);
      if constexpr (BIAS) y = add(y, load_lanes(job.bias + c, n));
      store_lanes(job.y + r * job.y_stride + c, activate<ACTIVATION>(y), n);
    });
  }
};

template <Activation ACTIVATION, bool BIAS>
struct FromFp32 {
  static void run(const EpilogueSums& job) {
    each_part(job, [&](int r, std::int64_t c, int n) {
      F16 y = load_lanes(job.acc + r * job.acc_stride + c, n);
      if constexpr (BIAS) y = add(y, load_lanes(job.bias + c, n));
      store_lanes(job.y + r * job.y_stride + c, activate<ACTIVATION>(y), n);
    });
  }
};

template <template <Activation, bool> class Epilogue, Activation ACTIVATION, class Job>
inline void with_bias(const Job& job) {
  job.bias != nullptr ? Epilogue<ACTIVATION, true>::run(job)
                      : Epilogue<ACTIVATION, false>::run(job);
}

template <template <Activation, bool> class Epilogue, class Job>
inline void run_epilogue(const Job& job) {
  switch (job.activation) {
    case Activation::none:
      return with_bias<Epilogue, Activation::none>(job);
    case Activation::relu:
      return with_bias<Epilogue, Activation::relu>(job);
    case Activation::gelu:
      return with_bias<Epilogue, Activation::gelu>(job);
    case Activation::silu:
      return with_bias<Epilogue, Activation::silu>(job);
    case Activation::relu6:
      return with_bias<Epilogue, Activation::relu6>(job);
    case Activation::hardswish:
      return with_bias<Epilogue, Activation::hardswish>(job);
  }
}

void epilogue_fp32(const EpilogueFp32& job) { run_epilogue<FromInt32>(job); }
void epilogue_sums(const EpilogueSums& job) { run_epilogue<FromFp32>(job); }
