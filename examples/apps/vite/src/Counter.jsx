import { useState } from "react";
import picture from "./picture.svg";

export default function Counter() {
  const [count, setCount] = useState(0);
  return (
    <>
      <h1>A counter</h1>
      <img src={picture} alt="" width="40" />
      <button onClick={() => setCount(count + 1)}>Counted {count} times</button>
    </>
  );
}
