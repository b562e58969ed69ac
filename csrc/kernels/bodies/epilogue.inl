// From sums to output: y = act(float(acc) * (row_scale * scale) + bias) for integer sums and
// y = act(acc + bias) for fp32 ones, each step rounded to fp32.

inline I16 load_sums(const std::int32_t* p, int) { return load_i(p); }
inline F16 load_sums(const float* p, int n) { return load_lanes(p, n); }

// Calls finish(c, n, sums) for the columns c.. of a row, 16 at a time; n < 16 in the last part.
// Always inline: behind a reference to `finish` its pointers would be read again for each vector.
template <class Sum, class Finish>
[[gnu::always_inline]] inline void each_part(const Sum* acc, std::int64_t columns,
                                             const Finish& finish) {
  std::int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) finish(c, kLanes, load_sums(acc + c, kLanes));
  if (c < columns) {
    const int rest = static_cast<int>(columns - c);
    finish(c, rest, load_sums(acc + c, rest));
  }
}

// Likewise where the weight has an order of its own: 64 sums are loaded, 16 at a time picked.
template <class Sum, class Finish>
[[gnu::always_inline]] inline void each_part(const Sum* acc, const std::int32_t* places,
                                             std::int64_t columns, const Finish& finish) {
  if (places == nullptr) return each_part(acc, columns, finish);
  std::int64_t c = 0;
  for (; c + kOrderBlock <= columns; c += kOrderBlock) {
    const auto block = load_block(acc + c, kOrderBlock / kLanes);
#pragma GCC unroll 4
    for (int at = 0; at < kOrderBlock; at += kLanes) {
      finish(c + at, kLanes, pick(block, places + c + at, kLanes));
    }
  }
  const int rest = static_cast<int>(columns - c);
  const auto block = load_block(acc + c, (rest + kLanes - 1) / kLanes);
  for (int at = 0; at < rest; at += kLanes) {
    const int n = rest - at < kLanes ? rest - at : kLanes;
    finish(c + at, n, pick(block, places + c + at, n));
  }
}

template <Activation ACTIVATION, bool BIAS>
struct FromInt32 {
  // The job by value: behind a reference every store of y could change it, and gcc reads all of its
  // fields again for each vector.
  static void run(const EpilogueFp32 job) {
    const std::int32_t* acc = job.acc;
    float* y = job.y;
    for (int r = 0; r < job.row_count; ++r, acc += job.acc_stride, y += job.y_stride) {
      const F16 row_scale = set_f(job.row_scale[r]);
      each_part(acc, job.places, job.columns, [&](std::int64_t c, int n, const I16& sums) {
        F16 part = mul(to_float(sums), mul(row_scale, load_lanes(job.scale + c, n)));
        if constexpr (BIAS) part = add(part, load_lanes(job.bias + c, n));
        store_lanes(y + c, activate<ACTIVATION>(part), n);
      });
    }
  }
};

template <Activation ACTIVATION, bool BIAS>
struct FromFp32 {
  static void run(const EpilogueSums job) {
    const float* acc = job.acc;
    float* y = job.y;
    for (int r = 0; r < job.row_count; ++r, acc += job.acc_stride, y += job.y_stride) {
      each_part(acc, job.places, job.columns, [&](std::int64_t c, int n, F16 part) {
        if constexpr (BIAS) part = add(part, load_lanes(job.bias + c, n));
        store_lanes(y + c, activate<ACTIVATION>(part), n);
      });
    }
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
