// What axe-core finds that keeps people from using a page; by these rules only, where some are named.
async (only) => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"], ...(only.length && { runOnly: only }) });
  return violations
    .filter(({ impact }) => ["serious", "critical"].includes(impact))
    .flatMap(({ id, nodes }) => nodes.map(({ html, any }) => `${id}: ${html.slice(0, 200)} ${any[0]?.message ?? ""}`));
}
